//! A client's socket, with an eye on clients that do not read what they have asked for.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    activity::{Activity, Limit},
    pace::{Overdue, ReaderPace},
    room::Occupied,
};
use crate::{
    memory::{Debt, GRACE, Memory},
    proxy::tcp::Tcp,
};

/// Bytes that the kernel takes from us before it can send them. It would take up to 4 MiB (`tcp_wmem`) from each
/// connection, which counts as the container's memory and hides for minutes that a client does not read. What is
/// under way on the network is not part of it, so this limits no throughput.
const UNSENT: u32 = 128 * 1024;
/// How long the kernel tries to send to a client that answers nothing, or takes nothing more.
const UNANSWERED: Duration = Duration::from_secs(90);

/// A client's socket. What is written to it is taken at a minimum rate, or the connection is reset; and sooner, as with
/// the head of a request that has come in part, if others need the memory.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Tcp,
    pace: ReaderPace,
    activity: Arc<Activity>,
    /// For a part of a head, while there is no memory for the rest.
    debt: Option<Debt>,
    /// Room for one connection, for as long as the socket is open: also while it is a tunnel.
    _room: Occupied,
}

impl Socket {
    /// Prepares a socket that was just accepted.
    pub(super) fn new(
        stream: TcpStream,
        memory: Arc<Memory>,
        pace: ReaderPace,
        activity: Arc<Activity>,
        room: Occupied,
    ) -> Self {
        // Small answers must not wait for a full packet; a socket that refuses is about to fail anyway.
        let _ = stream.set_nodelay(true);
        let options = socket2::SockRef::from(&stream);
        let _ = options.set_tcp_notsent_lowat(UNSENT);
        let _ = options.set_tcp_user_timeout(Some(UNANSWERED));
        Self { stream: Tcp::new(stream, memory), pace, activity, debt: None, _room: room }
    }

    /// When it is closed, the client sees a reset: it must not take what it has got for the whole.
    pub(super) fn reset(&self) {
        // A socket that refuses is broken already.
        let _ = self.stream.get_ref().set_zero_linger();
    }

    /// Ends it. The kernel need not keep what was sent.
    fn cut(&self, limit: Limit) -> io::Error {
        self.reset();
        self.activity.end_for(limit);
        io::Error::new(io::ErrorKind::ConnectionAborted, format!("{limit:?}"))
    }

    /// What became of an attempt to write.
    fn wrote(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(Ok(bytes)) => {
                self.pace.moved(bytes);
            }
            Poll::Ready(Err(_)) => {}
            // The ends of a tunnel agree between themselves on when to read.
            Poll::Pending if self.activity.tunnelled() => self.pace.stop(),
            Poll::Pending => {
                let overdue = ready!(self.pace.poll_overdue(self.activity.client(), cx));
                return Poll::Ready(Err(match overdue {
                    Overdue::Slow => self.cut(Limit::SlowReader),
                    Overdue::Evicted => self.cut(Limit::Evicted),
                }));
            }
        }
        outcome
    }

    /// Ready when a head that waits for memory has to give back what it has.
    fn poll_evicted(&mut self, cx: &Context<'_>) -> Poll<()> {
        let waits = self.stream.waits().filter(|(kept, _)| *kept > 0 && self.activity.is_quiet());
        let Some((kept, since)) = waits else {
            return Poll::Pending;
        };
        // It is polled anew each time that it looks for memory.
        if self.debt.is_none() && since.elapsed() >= GRACE {
            self.debt = Some(self.stream.memory().owe(self.activity.client(), kept as u64, since));
        }
        self.debt.as_ref().map_or(Poll::Pending, |debt| debt.poll_ended(cx))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            self.debt = None;
            return Poll::Ready(read);
        }
        ready!(self.poll_evicted(cx));
        Poll::Ready(Err(self.cut(Limit::Evicted)))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(cx, outcome)
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
