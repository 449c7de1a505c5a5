//! A TCP connection, which is read only while there is [memory](crate::memory) for what comes, and written to in the
//! way that costs least.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take},
    net::TcpStream,
    time::Sleep,
};

use crate::memory::{Memory, SELDOM, cost};

/// How often who waits for memory looks whether there is any, at first; after a while it is [`SELDOM`].
const OFTEN: Duration = Duration::from_millis(10);

/// So much is read of what answers us even if only the reserve is left.
const SMALL: usize = 16 * 1024;

/// The most that is read at once. The kernel sends 64 KiB as one packet, headers included, and of full segments only;
/// so what was read as 64 KiB would be sent as two, the second one nearly empty. hyper also writes two of these with one
/// call: it collects more as long as what it has is below the 64 KiB that it may buffer.
const AT_ONCE: u64 = 62 * 1024;

/// So many bytes are copied together sooner than written in pieces: the kernel takes a third of a microsecond
/// longer for `writev` than for `send`, of the seven that a short message takes it in all.
const TOGETHER: usize = 1024;

/// A connection of a client, or to a pod.
#[derive(Debug)]
pub(crate) struct Tcp {
    stream: Take<TcpStream>,
    memory: Arc<Memory>,
    /// Bytes read since something was last written.
    read: usize,
    /// Made when there is no memory, which most never see.
    pause: Option<Pause>,
}

/// There is no memory.
#[derive(Debug)]
struct Pause {
    since: Instant,
    look: Pin<Box<Sleep>>,
}

impl Tcp {
    /// What comes on it is kept in this memory.
    pub(crate) fn new(stream: TcpStream, memory: Arc<Memory>) -> Self {
        Self { stream: stream.take(AT_ONCE), memory, read: 0, pause: None }
    }

    /// The connection itself.
    pub(crate) fn get_ref(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.get_mut())
    }

    /// Where what comes on it is kept.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// If there is no memory for what comes: how much is kept of what has come, and since when it waits.
    pub(super) fn waits(&self) -> Option<(usize, Instant)> {
        self.pause.as_ref().map(|pause| (self.read * cost::BYTE, pause.since))
    }

    /// Ready when there is memory.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.memory.has_room(self.read < SMALL) {
            let pause = self.pause.get_or_insert_with(|| Pause {
                since: Instant::now(),
                look: Box::pin(tokio::time::sleep(OFTEN)),
            });
            ready!(pause.look.as_mut().poll(cx));
            let next = pause.since.elapsed().clamp(OFTEN, SELDOM);
            pause.look.as_mut().reset(tokio::time::Instant::now() + next);
        }
        self.pause = None;
        Poll::Ready(())
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_room(cx));
        let before = buffer.filled().len();
        self.stream.set_limit(AT_ONCE);
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        self.read += read;
        self.memory.took(read * cost::BYTE);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.read = 0;
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.read = 0;
        let stream = self.stream();
        if let [only] = pieces {
            return stream.poll_write(cx, only);
        }
        let mut together = [0; TOGETHER];
        let mut length = 0;
        for piece in pieces {
            let Some(room) = together.get_mut(length..length + piece.len()) else {
                return stream.poll_write_vectored(cx, pieces);
            };
            room.copy_from_slice(piece);
            length += piece.len();
        }
        stream.poll_write(cx, &together[..length])
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_whole_and_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut stream, mut far) = (Tcp::new(near.unwrap(), Arc::default()), far.unwrap().0);
        let mut expected = Vec::new();
        for lengths in [vec![3], vec![0, 1], vec![500, 0, 524], vec![500, 525], vec![1, 4_000, 1], vec![]] {
            let pieces: Vec<Vec<u8>> =
                lengths.iter().enumerate().map(|(at, length)| vec![at as u8; *length]).collect();
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            // So little fits into the kernel's buffers at once.
            let written = stream.write_vectored(&slices).await.unwrap();
            assert_eq!(written, lengths.iter().sum::<usize>());
            expected.extend(pieces.concat());
        }
        drop(stream);
        let mut came = Vec::new();
        far.read_to_end(&mut came).await.unwrap();
        assert!(came == expected);
    }
}
