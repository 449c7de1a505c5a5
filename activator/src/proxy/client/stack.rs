//! What hyper reads from and writes to: a client's connection, in the layers that watch over it.

use std::sync::Arc;

use hyper::upgrade::Upgraded;
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{activity::Activity, flood::FloodGuard, guard::Guard, socket::Socket};
use crate::proxy::interim::Interim;

/// What HTTP is spoken on.
pub(super) type Stream = Either<Socket, Box<TlsStream<Socket>>>;

/// What hyper reads from and writes to.
type Layers = TokioIo<Guard<FloodGuard<Stream>>>;

/// Puts the layers around a connection.
pub(super) fn layered(stream: Stream, activity: &Arc<Activity>, interim: &Arc<Interim>) -> Layers {
    let stream = FloodGuard::new(stream, Arc::clone(activity));
    TokioIo::new(Guard::new(stream, Arc::clone(activity), Arc::clone(interim)))
}

/// Makes of the end of a client's upgraded connection a reset, so that what it carried does not look
/// complete. HTTP/2 and TLS have their own marks of a complete end, which are just not sent.
pub(in crate::proxy) fn reset(end: Upgraded) {
    if let Ok(parts) = auto::upgrade::downcast::<Layers>(end)
        && let Either::Left(socket) = parts.io.inner().get_ref().get_ref()
    {
        socket.reset();
    }
}
