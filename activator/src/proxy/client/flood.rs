//! A client's connection as hyper reads it, with the [budget](super::frames) of HTTP/2 frames kept.
//!
//! When the budget is spent, h2 is made to say what it says of every flood that it finds itself: GOAWAY with
//! ENHANCE_YOUR_CALM, and the end of the connection. Only h2 can say it at the right place among the frames that
//! it writes; so it gets, in place of whatever else the client sends, a flood that it knows.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    activity::Activity,
    frames::{FrameBudget, PREFACE},
};

/// A header block without end: HEADERS without END_HEADERS, and then more empty CONTINUATION frames than h2
/// takes. Both frames are on the highest stream there can be.
const HEADERS: [u8; 9] = [0, 0, 0, 1, 0, 0x7f, 0xff, 0xff, 0xff];
const CONTINUATION: [u8; 9] = [0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff];
/// h2 takes 5 with our limits (`calc_max_continuation_frames`).
const CONTINUATIONS: usize = 16;
const FLOOD: [u8; 9 * (1 + CONTINUATIONS)] = flood();

const fn flood() -> [u8; 9 * (1 + CONTINUATIONS)] {
    let mut flood = [0; 9 * (1 + CONTINUATIONS)];
    let mut at = 0;
    while at < flood.len() {
        flood[at] = if at < 9 { HEADERS[at] } else { CONTINUATION[at % 9] };
        at += 1;
    }
    flood
}

/// A stream whose HTTP/2 frames are counted. HTTP/1 passes untouched.
#[derive(Debug)]
pub(super) struct FloodGuard<T> {
    inner: T,
    activity: Arc<Activity>,
    state: State,
    /// Whether anything was written.
    begun: bool,
}

#[derive(Debug)]
enum State {
    /// So many bytes are those of the preface.
    Sniffing(usize),
    Http1,
    Http2(FrameBudget),
    /// What is still to be read of the flood that ends it.
    Ending(&'static [u8]),
}

impl<T> FloodGuard<T> {
    /// A connection of which nothing was read yet.
    pub(super) fn new(inner: T, activity: Arc<Activity>) -> Self {
        Self { inner, activity, state: State::Sniffing(0), begun: false }
    }

    /// The connection itself.
    pub(super) fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Looks at what was read; how much of it hyper gets.
    fn look(&mut self, read: &[u8]) -> usize {
        let mut at = 0;
        if let State::Sniffing(known) = &mut self.state {
            at = read.len().min(PREFACE.len() - *known);
            if read[..at] != PREFACE[*known..*known + at] {
                self.state = State::Http1;
                return read.len();
            }
            *known += at;
            if *known < PREFACE.len() {
                return read.len();
            }
            self.state = State::Http2(FrameBudget::new());
            self.activity.http2();
        }
        let State::Http2(budget) = &mut self.state else { return read.len() };
        match budget.received(&read[at..], || self.activity.age()) {
            None => read.len(),
            Some(kept) => {
                self.state = State::Ending(&FLOOD);
                at + kept
            }
        }
    }

    fn sent(&mut self, bytes: usize) {
        self.begun = true;
        if let State::Http2(budget) = &mut self.state {
            budget.sent(bytes);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for FloodGuard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let State::Http1 = self.state {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
            if buffer.filled().len() > before {
                self.activity.head();
            }
            return Poll::Ready(Ok(()));
        }
        loop {
            if let State::Ending(flood) = &mut self.state {
                let (now, later) = flood.split_at(flood.len().min(buffer.remaining()));
                buffer.put_slice(now);
                *flood = later;
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
            let kept = self.look(&buffer.filled()[before..]);
            buffer.set_filled(before + kept);
            // Nothing kept would look like the end of the connection.
            if kept > 0 || !matches!(self.state, State::Ending(_)) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for FloodGuard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.sent(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices))?;
        self.sent(sent);
        Poll::Ready(Ok(sent))
    }

    /// h2 asks before it writes anything. By the answer it collects pieces of bodies below 1 KiB, or only those below
    /// 256 bytes: a larger one it writes at once, with what it has collected. Many responses are in between.
    fn is_write_vectored(&self) -> bool {
        let asks_h2 = !self.begun && matches!(self.state, State::Http2(_));
        !asks_h2 && self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
