//! A message's body as it comes in, over either version of HTTP.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::Reason;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::http2::Received;

/// A message's body as it comes in.
#[derive(Debug)]
pub(in crate::proxy) struct Incoming(Kind);

#[derive(Debug)]
enum Kind {
    Http1(hyper::body::Incoming),
    Http2(Received),
    /// A tunnel is asked for: what comes is no body.
    Nothing,
}

/// Why a message's body ended too early.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// HTTP/1.
    #[error("{0}")]
    Http1(#[from] hyper::Error),
    /// HTTP/2.
    #[error("{0}")]
    Http2(#[from] h2::Error),
}

impl IncomingError {
    /// The reason, if whoever sends it has reset the stream.
    pub(in crate::proxy) fn reset(&self) -> Option<Reason> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(error) => error.reason(),
        }
    }
}

impl Incoming {
    /// None.
    pub(in crate::proxy) fn nothing() -> Self {
        Self(Kind::Nothing)
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self(Kind::Http1(body))
    }
}

impl From<Received> for Incoming {
    fn from(body: Received) -> Self {
        Self(Kind::Http2(body))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        match &mut self.0 {
            Kind::Http1(body) => Pin::new(body).poll_frame(cx).map_err(IncomingError::from),
            Kind::Http2(body) => Pin::new(body).poll_frame(cx).map_err(IncomingError::from),
            Kind::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Http1(body) => body.is_end_stream(),
            Kind::Http2(body) => body.is_end_stream(),
            Kind::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Http1(body) => body.size_hint(),
            Kind::Http2(body) => body.size_hint(),
            Kind::Nothing => SizeHint::with_exact(0),
        }
    }
}
