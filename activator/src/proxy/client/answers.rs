//! What answers the requests of a connection, in either version of HTTP.

use std::{convert::Infallible, error::Error};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::service::Service;

use crate::proxy::body::Incoming;

/// A service that answers requests; each of its futures can be moved.
pub(super) trait Answers:
    Service<Request<Incoming>, Response = Response<Self::Body>, Error = Infallible, Future: Unpin>
{
    /// What a response carries.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static;
}

impl<S, B> Answers for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Unpin>,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static,
{
    type Body = B;
}
