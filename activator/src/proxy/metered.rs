//! A socket that is only read while there is [memory](crate::memory) for what comes.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use crate::memory::{Memory, cost};

/// How often who waits for memory looks whether there is any.
const LOOK: Duration = Duration::from_millis(10);

/// A socket, of a client or to a pod.
#[derive(Debug)]
pub(crate) struct Metered {
    stream: TcpStream,
    memory: Arc<Memory>,
    /// Made when there is no memory, which most never see.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    /// Reads a socket as far as there is memory.
    pub(crate) fn new(stream: TcpStream, memory: Arc<Memory>) -> Self {
        Self { stream, memory, pause: None }
    }

    /// The socket itself.
    pub(crate) fn get_ref(&self) -> &TcpStream {
        &self.stream
    }

    /// Ready when there is memory.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.memory.has_room() {
            let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        self.pause = None;
        Poll::Ready(())
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_room(cx));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.memory.took((buffer.filled().len() - before) * cost::BYTE);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
