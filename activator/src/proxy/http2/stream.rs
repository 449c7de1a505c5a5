//! Both directions of a stream that carries a tunnel (RFC 8441).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream as a tunnel has it: bytes in both directions. Dropped before it was shut down, it is reset.
#[derive(Debug)]
pub(in crate::proxy) struct TunnelStream {
    outward: SendStream<Bytes>,
    inward: RecvStream,
    /// What has come and was not read yet.
    came: Bytes,
}

impl TunnelStream {
    /// The two directions of one stream.
    pub(in crate::proxy) fn new(outward: SendStream<Bytes>, inward: RecvStream) -> Self {
        Self { outward, inward, came: Bytes::new() }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.came.is_empty() {
            match ready!(self.inward.poll_data(cx)) {
                Some(data) => self.came = data.map_err(broken)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let now = self.came.len().min(buffer.remaining());
        buffer.put_slice(&self.came[..now]);
        self.came.advance(now);
        // The stream may have been reset meanwhile: then nobody waits for the window.
        let _ = self.inward.flow_control().release_capacity(now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Poll::Ready(reason) = self.outward.poll_reset(cx).map_err(broken)? {
            return Poll::Ready(Err(broken(reason.into())));
        }
        self.outward.reserve_capacity(bytes.len());
        while self.outward.capacity() == 0 {
            match ready!(self.outward.poll_capacity(cx)) {
                Some(capacity) => drop(capacity.map_err(broken)?),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let now = self.outward.capacity().min(bytes.len());
        self.outward.send_data(Bytes::copy_from_slice(&bytes[..now]), false).map_err(broken)?;
        Poll::Ready(Ok(now))
    }

    /// The connection's task sends what was handed over.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.outward.send_data(Bytes::new(), true).map_err(broken))
    }
}

/// RFC 8441, section 5: a reset of the stream is one of the connection that it stands for.
fn broken(error: h2::Error) -> io::Error {
    match error.reason() {
        Some(Reason::NO_ERROR | Reason::STREAM_CLOSED) => io::Error::new(io::ErrorKind::BrokenPipe, error),
        Some(_) => io::Error::new(io::ErrorKind::ConnectionReset, error),
        None => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
    }
}
