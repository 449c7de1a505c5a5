//! What HTTP/2 writes in one turn of a connection goes out together.
//!
//! h2 writes larger pieces of bodies one by one, with a call of the kernel each, and many of its frames belong to
//! streams that have their say in the same turn. So what it writes is kept until the turn ends, or until it is as much as
//! the kernel sends at once.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// From so many bytes on nothing more is taken before they have been sent.
const MOST: usize = 48 * 1024;
/// Less than this waits for more, if more may come soon.
const ENOUGH: usize = 16 * 1024;
/// What is set aside at first: most turns write no more.
const USUAL: usize = 4 * 1024;

/// What h2 has of a connection, and a second handle for whoever ends the turn.
#[derive(Debug)]
pub(super) struct Gather<T>(Arc<Mutex<Gathered<T>>>);

#[derive(Debug)]
struct Gathered<T> {
    io: T,
    /// Written, and not sent yet.
    kept: BytesMut,
}

impl<T> Gather<T> {
    /// Nothing was written yet. Twice the same connection.
    pub(super) fn pair(io: T) -> (Self, Self) {
        let shared = Arc::new(Mutex::new(Gathered { io, kept: BytesMut::new() }));
        (Self(Arc::clone(&shared)), Self(shared))
    }

    fn lock(&self) -> MutexGuard<'_, Gathered<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    /// Whether there is something to send, and that is little.
    pub(super) fn is_little(&self) -> bool {
        (1..ENOUGH).contains(&self.lock().kept.len())
    }

    /// Sends what was written in the turn that ends.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_send(cx)
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.kept))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.advance(sent);
        }
        // An idle connection keeps no buffer.
        self.kept = BytesMut::new();
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ready when there is room for more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.kept.len() >= MOST { self.poll_send(cx) } else { Poll::Ready(Ok(())) }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.kept.is_empty() {
            self.kept.reserve(USUAL);
        }
        self.kept.extend_from_slice(bytes);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut gathered = self.lock();
        ready!(gathered.poll_room(cx))?;
        gathered.keep(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.lock();
        ready!(gathered.poll_room(cx))?;
        pieces.iter().for_each(|piece| gathered.keep(piece));
        Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// That is for the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.lock();
        ready!(gathered.poll_send(cx))?;
        Pin::new(&mut gathered.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn nothing_goes_out_before_the_turn_ends_or_there_is_much() {
        let (near, mut far) = tokio::io::duplex(2 * MOST);
        let (mut io, turn) = Gather::pair(near);
        io.write_all(b"one, ").await.unwrap();
        io.flush().await.unwrap();
        let pieces = [io::IoSlice::new(b"two"), io::IoSlice::new(b"!")];
        assert_eq!(io.write_vectored(&pieces).await.unwrap(), 4);
        let mut came = [0; 9];
        let early = tokio::time::timeout(std::time::Duration::from_millis(20), far.read(&mut came)).await;
        assert!(early.is_err(), "{early:?}");
        std::future::poll_fn(|cx| turn.poll_send(cx)).await.unwrap();
        far.read_exact(&mut came).await.unwrap();
        assert_eq!(&came, b"one, two!");
        // What is written when there is much already takes that along.
        for _ in 0..2 {
            io.write_all(&vec![1; MOST]).await.unwrap();
        }
        let mut much = vec![0; MOST];
        far.read_exact(&mut much).await.unwrap();
        io.shutdown().await.unwrap();
        assert_eq!(far.read_to_end(&mut much).await.unwrap(), MOST);
    }
}
