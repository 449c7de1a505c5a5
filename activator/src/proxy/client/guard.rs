//! Stands between a client's socket and hyper: lets pass what keeps the rules of HTTP/1, and puts a request
//! that we refuse ourselves in the place of what does not.
//!
//! A head passes when it is whole, so hyper sees good requests and nothing else. In place of a bad one it sees
//! [`refused`], of which [`strict::check`](crate::proxy::strict::check) makes the answer: in order behind the
//! answers to earlier requests, and with `Connection: close`. No client can send that head itself, and all
//! that it could get by it is a refusal. A bad body ends with an error where it went bad.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::{
    activity::Activity,
    framing::{Broken, Framing, Refusal},
};
use crate::{
    proxy::interim::{Interim, http1},
    time,
};

/// Which rule a refused request has broken, by its place in [`Refusal::ALL`].
const REFUSED: HeaderName = HeaderName::from_static("pilotlight-refused");
/// How much is read at once of a head that came in pieces.
const PIECE: usize = 4 * 1024;
/// How much of what follows a refused request is read and dropped. A socket that is closed with bytes unread
/// is reset, and the client may lose the answer.
const LINGER: usize = 256 * 1024;
/// A client that ends its side so soon behind a request has only said that it has no other, and waits for the
/// answer. One that ends it later has left.
const SAME_FLIGHT: Duration = Duration::from_millis(20);

/// A client's connection, of which only what keeps the rules can be read.
#[derive(Debug)]
pub(super) struct Guard<IO> {
    io: IO,
    framing: Framing,
    /// Read and not yet passed on.
    held: BytesMut,
    /// How much of `held` may be passed on; behind it is the beginning of a head.
    clear: usize,
    refused: Option<Refused>,
    activity: Arc<Activity>,
    half: Half,
    /// Whether there may be more to write than what has been.
    unflushed: bool,
    interim: Arc<Interim>,
    /// What is being written of interim responses.
    early: Bytes,
}

/// Whether the client has ended its side of the connection.
#[derive(Clone, Copy, Debug)]
enum Half {
    /// Not yet; since when we have waited for more, if we have.
    Open(Option<Instant>),
    /// Right behind a request, for whose answer it waits.
    Closed,
}

/// What comes after the last bytes that may pass.
#[derive(Clone, Copy, Debug)]
enum Refused {
    /// Nothing. So many more bytes are read to be dropped.
    Head(usize),
    /// An error.
    Body(Refusal),
}

impl<IO> Guard<IO> {
    /// Guards a connection, of which this has been read, until it becomes a tunnel, and writes its interim responses.
    pub(super) fn new(io: IO, read: BytesMut, activity: Arc<Activity>, interim: Arc<Interim>) -> Self {
        let mut guard = Self {
            io,
            framing: Framing::new(),
            held: read,
            clear: 0,
            refused: None,
            activity,
            half: Half::Open(None),
            unflushed: false,
            interim,
            early: Bytes::new(),
        };
        if !guard.held.is_empty() {
            guard.look();
        }
        guard
    }

    /// What is guarded.
    pub(super) fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Passes on what may be passed on. The buffer is given back with the last byte: few connections need
    /// it for long.
    fn pass(&mut self, buf: &mut ReadBuf<'_>) {
        let now = self.clear.min(buf.remaining());
        buf.put_slice(&self.held[..now]);
        self.held.advance(now);
        self.clear -= now;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
    }

    /// Looks at what is held: how much of it may be passed on.
    fn look(&mut self) {
        match self.framing.follow(&self.held) {
            Ok(passed) => self.clear = passed,
            Err(broken) => {
                self.held.truncate(broken.passed);
                self.refuse(broken);
            }
        }
    }

    /// After this, `held` is what hyper sees in place of what was refused.
    fn refuse(&mut self, broken: Broken) {
        if broken.in_body {
            self.refused = Some(Refused::Body(broken.rule));
        } else {
            self.held.extend_from_slice(refused(broken.rule).as_bytes());
            self.refused = Some(Refused::Head(LINGER));
        }
        self.clear = self.held.len();
    }

    /// Whether the client's end is to be kept from hyper, which would take the client for gone: while the
    /// answer to its last request is under way.
    fn awaits_answer(&mut self, cx: &Context<'_>) -> bool {
        if !self.framing.is_between() || !(self.activity.is_answering(cx) || self.unflushed) {
            return false;
        }
        if let Half::Open(Some(since)) = self.half
            && since.elapsed() > SAME_FLIGHT
        {
            return false;
        }
        self.half = Half::Closed;
        true
    }

    /// Whether hyper has handed the connection over; then everything that is held may pass.
    fn is_tunnel(&mut self) -> bool {
        if !self.framing.is_opaque() && self.activity.tunnelled() {
            self.framing.switch();
            self.clear = self.held.len();
        }
        self.framing.is_opaque()
    }
}

impl<IO: AsyncRead + Unpin> Guard<IO> {
    /// Reads straight into hyper's buffer; what cannot pass yet is taken out of it again.
    fn read_through(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            self.activity.head();
        }
        let passed = match self.framing.follow(read) {
            Ok(passed) => {
                self.held.extend_from_slice(&read[passed..]);
                passed
            }
            Err(broken) => {
                self.refuse(broken);
                broken.passed
            }
        };
        buf.set_filled(before + passed);
        Poll::Ready(Ok(()))
    }

    /// Reads more of what is held. `false`: the client has ended.
    fn read_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.held.reserve(PIECE);
        if ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.held))? == 0 {
            return Poll::Ready(Ok(false));
        }
        self.activity.head();
        self.look();
        Poll::Ready(Ok(true))
    }

    /// What is read after a refusal.
    fn after_refusal(&mut self, cx: &mut Context<'_>, refused: Refused) -> Poll<io::Result<()>> {
        let mut left = match refused {
            Refused::Body(rule) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, rule))),
            Refused::Head(left) => left,
        };
        // Never the end: hyper would take the client for gone, and not answer.
        while left > 0 {
            let mut scratch = [0; PIECE];
            let mut dropped = ReadBuf::new(&mut scratch);
            let outcome = Pin::new(&mut self.io).poll_read(cx, &mut dropped);
            left = match outcome {
                Poll::Ready(Ok(())) if !dropped.filled().is_empty() => {
                    left.saturating_sub(dropped.filled().len())
                }
                Poll::Ready(_) => 0,
                Poll::Pending => break,
            };
        }
        self.refused = Some(Refused::Head(left));
        Poll::Pending
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let opaque = self.is_tunnel();
            if self.clear > 0 {
                self.pass(buf);
                return Poll::Ready(Ok(()));
            }
            if let Some(refused) = self.refused {
                return self.after_refusal(cx, refused);
            }
            if opaque {
                return Pin::new(&mut self.io).poll_read(cx, buf);
            }
            if !self.held.is_empty() {
                if !ready!(self.read_more(cx))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let before = buf.filled().len();
            let Poll::Ready(read) = self.read_through(cx, buf) else {
                if let Half::Open(since) = &mut self.half {
                    since.get_or_insert_with(time::now);
                }
                return Poll::Pending;
            };
            read?;
            // Nothing in `buf` would be the client's end.
            let passed = buf.filled().len() > before;
            let ended = !passed && self.held.is_empty() && self.refused.is_none();
            if ended && self.awaits_answer(cx) {
                return Poll::Pending;
            }
            if ended || passed {
                self.half = Half::Open(None);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> Guard<IO> {
    /// Writes interim responses. Whether there were any.
    ///
    /// When hyper has written a part of something, which may be an earlier response, they are dropped: later they
    /// would stand inside the final one, or behind it.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.early.is_empty() {
            let waiting = http1(&self.interim.take());
            if !self.unflushed {
                self.early = waiting.into();
            }
        }
        let any = !self.early.is_empty();
        while !self.early.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.early))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.early.advance(written);
        }
        Poll::Ready(Ok(any))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        self.unflushed = true;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        self.unflushed = true;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        if ready!(self.poll_interim(cx))? {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The head that hyper sees in place of one that is refused.
fn refused(rule: Refusal) -> String {
    format!("GET * HTTP/1.1\r\n{REFUSED}: {}\r\nConnection: close\r\n\r\n", rule as usize)
}

/// The rule that a request with the target `*` has broken: what was put in the place of it says so.
pub(crate) fn broken_rule(headers: &HeaderMap) -> Refusal {
    let place = headers.get(REFUSED).and_then(|place| place.to_str().ok()?.parse::<usize>().ok());
    place.and_then(|place| Refusal::ALL.get(place).copied()).unwrap_or(Refusal::Asterisk)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn an_interim_response_stands_before_a_final_one_or_nowhere() {
        let (near, mut far) = tokio::io::duplex(1024);
        let interim = Arc::<Interim>::default();
        let mut guard = Guard::new(near, BytesMut::new(), Activity::begin(), Arc::clone(&interim));
        let hint = || interim.add(StatusCode::PROCESSING, &HeaderMap::new());
        hint();
        guard.write_all(b"first").await.unwrap();
        // While a part of a response may still be on its way, nothing is put in between.
        hint();
        guard.write_all(b" and its end;").await.unwrap();
        guard.flush().await.unwrap();
        hint();
        guard.flush().await.unwrap();
        guard.write_all(b"second").await.unwrap();
        drop(guard);
        let mut written = String::new();
        far.read_to_string(&mut written).await.unwrap();
        let processing = "HTTP/1.1 102 Processing\r\n\r\n";
        assert_eq!(written, format!("{processing}first and its end;{processing}second"));
    }
}
