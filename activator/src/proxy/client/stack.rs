//! What HTTP is spoken on, and how it ends when it was a tunnel.

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{guard::Guard, socket::Socket};

/// What HTTP is spoken on.
pub(super) type Stream = Either<Socket, Box<TlsStream<Socket>>>;

/// Makes of the end of a client's upgraded connection a reset, so that what it carried does not look
/// complete. TLS has its own mark of a complete end, which is just not sent.
pub(in crate::proxy) fn reset(end: Upgraded) {
    if let Ok(parts) = end.downcast::<TokioIo<Guard<Stream>>>()
        && let Either::Left(socket) = parts.io.inner().get_ref()
    {
        socket.reset();
    }
}
