//! What answers the requests of a connection, in either version of HTTP.

use std::error::Error;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use crate::proxy::body::RequestBody;

/// A request as it is handed on. On the heap: it would be moved from each future on its way into the next.
pub(super) type BoxRequest = Box<Request<RequestBody>>;

/// Answers requests: a function.
pub(super) trait Answers {
    /// Each can be moved.
    type Answer: Future<Output = Response<Self::Body>> + Unpin;
    /// What a response carries.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static;

    fn answer(&self, request: BoxRequest) -> Self::Answer;
}

impl<F, A, B> Answers for F
where
    F: Fn(BoxRequest) -> A,
    A: Future<Output = Response<B>> + Unpin,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static,
{
    type Answer = A;
    type Body = B;

    fn answer(&self, request: BoxRequest) -> A {
        self(request)
    }
}
