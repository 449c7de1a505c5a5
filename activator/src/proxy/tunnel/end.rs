//! The two ends of a tunnel, each of its own version of HTTP.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio_util::either::Either;

use crate::proxy::http2::TunnelStream;

/// One end: a connection of HTTP/1 that was upgraded, or a stream of HTTP/2.
pub(super) type End = Either<TokioIo<Upgraded>, TunnelStream>;

/// An end, once both sides have agreed.
#[derive(Debug)]
pub(in crate::proxy) enum Promised {
    Http1(OnUpgrade),
    /// Once the other side's consent was told.
    Http2(oneshot::Receiver<TunnelStream>),
    /// It is there.
    Kept(TunnelStream),
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotUpgraded {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[error("the stream has ended")]
    Http2(#[from] oneshot::error::RecvError),
}

impl Promised {
    /// Waits for it.
    pub(super) async fn kept(self) -> Result<End, NotUpgraded> {
        match self {
            Self::Http1(upgraded) => Ok(Either::Left(TokioIo::new(upgraded.await?))),
            Self::Http2(stream) => Ok(Either::Right(stream.await?)),
            Self::Kept(stream) => Ok(Either::Right(stream)),
        }
    }
}

/// What comes with a request for a tunnel over HTTP/2: the client's stream, once the tunnel is open.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct ClientStream(Arc<Mutex<Option<oneshot::Receiver<TunnelStream>>>>);

impl ClientStream {
    /// The stream that will come.
    pub(in crate::proxy) fn new(stream: oneshot::Receiver<TunnelStream>) -> Self {
        Self(Arc::new(Mutex::new(Some(stream))))
    }

    /// Takes it; whoever asks later gets none.
    pub(in crate::proxy) fn take(&self) -> Option<Promised> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map(Promised::Http2)
    }
}
