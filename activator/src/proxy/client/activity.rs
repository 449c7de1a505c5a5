//! What a client's connection is doing: serving requests, receiving the head of one, or nothing.
//!
//! The clocks for the latter two are one timer for each connection, which is only ever set again when it fires:
//! a request costs no more than a few stores.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};

use crate::{
    memory::{ClientId, Idle},
    time,
};

/// How long a connection may do nothing. As Kestrel has it: 30 s and 130 s, the latter longer than what common load
/// balancers keep idle connections for, so that it is they who close them.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// For the head of a request, from its first byte, or from the beginning of the connection.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
}

impl Default for Clocks {
    fn default() -> Self {
        Self { head: Duration::from_secs(30), idle: Duration::from_secs(130) }
    }
}

/// What one connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// Requests that are being answered.
    open: AtomicU32,
    /// Milliseconds of its age when the last of them ended.
    quiet: AtomicU64,
    /// Milliseconds of its age when the head of a request began, and 1; 0: none has.
    head: AtomicU64,
    tunnelled: AtomicBool,
    /// The limit that the client has reached, which is the end of the connection.
    ended_for: OnceLock<Limit>,
    /// Whoever waits until no request is being answered.
    quiet_waker: AtomicWaker,
}

impl Activity {
    /// A connection that begins now: with the head of a request.
    pub(super) fn begin() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            open: AtomicU32::new(0),
            quiet: AtomicU64::new(0),
            head: AtomicU64::new(1),
            tunnelled: AtomicBool::new(false),
            ended_for: OnceLock::new(),
            quiet_waker: AtomicWaker::new(),
        })
    }

    /// Whose it is: no other connection has this while it lives.
    pub(super) fn client(self: &Arc<Self>) -> ClientId {
        Arc::as_ptr(self).addr()
    }

    /// How long ago it began.
    pub(super) fn age(&self) -> Duration {
        time::now().saturating_duration_since(self.began)
    }

    /// Bytes have come that are part of a head, unless a request is being answered.
    pub(super) fn head(&self) {
        if self.open.load(Ordering::Relaxed) == 0 && self.head.load(Ordering::Relaxed) == 0 {
            self.head.store(self.millis() + 1, Ordering::Relaxed);
        }
    }

    /// No head has begun.
    pub(super) fn no_head(&self) {
        self.head.store(0, Ordering::Relaxed);
    }

    /// It is to end for this reason, unless there is another already.
    pub(super) fn end_for(&self, limit: Limit) {
        // The first counts.
        let _ = self.ended_for.set(limit);
    }

    /// Why it is to end, if it is.
    pub(super) fn ended_for(&self) -> Option<Limit> {
        self.ended_for.get().copied()
    }

    /// A request has come.
    pub(super) fn request(self: &Arc<Self>) -> OpenRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.no_head();
        OpenRequest(Arc::clone(self))
    }

    /// Whether a request is being answered. Who asks is woken when none is any longer.
    pub(super) fn is_answering(&self, cx: &Context<'_>) -> bool {
        self.quiet_waker.register(cx.waker());
        self.open.load(Ordering::Acquire) > 0
    }

    /// Whether none is.
    pub(super) fn is_quiet(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Whether the connection carries something else than HTTP by now.
    pub(super) fn tunnelled(&self) -> bool {
        self.tunnelled.load(Ordering::Acquire)
    }

    fn millis(&self) -> u64 {
        self.age().as_millis() as u64
    }

    /// What the clocks say.
    pub(super) fn verdict(&self, clocks: &Clocks) -> Verdict {
        let since = match self.head.load(Ordering::Relaxed) {
            _ if self.open.load(Ordering::Relaxed) > 0 => None,
            0 => Some((self.quiet.load(Ordering::Relaxed), clocks.idle, Verdict::Idle)),
            head => Some((head - 1, clocks.head, Verdict::SlowHead)),
        };
        judge(since, self.age(), clocks)
    }
}

impl Idle for Activity {
    fn idle_since(&self) -> Option<Instant> {
        let since = match self.head.load(Ordering::Relaxed) {
            _ if !self.is_quiet() => return None,
            0 => self.quiet.load(Ordering::Relaxed),
            head => head - 1,
        };
        Some(self.began + Duration::from_millis(since))
    }
}

/// A limit that ends a connection, whatever it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// The client takes what it asked for too slowly.
    SlowReader,
    /// Others need the memory.
    Evicted,
    /// HTTP/2: it asks for too much work.
    Flood,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing until this time has passed.
    Fine(Duration),
    /// It has done nothing for too long.
    Idle,
    /// It has taken too long for a head.
    SlowHead,
}

/// `since`: the age in milliseconds since when the connection waits, how long it may, and what it is then.
fn judge(since: Option<(u64, Duration, Verdict)>, age: Duration, clocks: &Clocks) -> Verdict {
    // A head may begin at any time: looked at so often, it gets at most a quarter more than its time.
    let look = clocks.head / 4;
    let Some((since, allowed, late)) = since else { return Verdict::Fine(look) };
    let until = Duration::from_millis(since) + allowed;
    match until.saturating_sub(age) {
        Duration::ZERO => late,
        left => Verdict::Fine(left.min(look)),
    }
}

/// A request that is being answered, until its response's body is dropped, and the tunnel that it may have
/// opened has ended.
#[derive(Debug)]
pub(in crate::proxy) struct OpenRequest(Arc<Activity>);

impl Clone for OpenRequest {
    fn clone(&self) -> Self {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl OpenRequest {
    /// The request has made something else than HTTP of its connection.
    pub(in crate::proxy) fn tunnel(&self) {
        self.0.tunnelled.store(true, Ordering::Release);
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.quiet.store(self.0.millis(), Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Release);
        self.0.quiet_waker.wake();
    }
}

/// A response's body, and the request that it ends.
#[derive(Debug)]
pub(super) struct Counted<B> {
    pub(super) body: B,
    /// Ends with it.
    pub(super) _open: OpenRequest,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_is_judged() {
        let clocks = Clocks { head: Duration::from_secs(8), idle: Duration::from_secs(100) };
        let (look, s) = (Verdict::Fine(Duration::from_secs(2)), Duration::from_secs);
        let idle = |since| Some((since, clocks.idle, Verdict::Idle));
        let head = |since| Some((since, clocks.head, Verdict::SlowHead));
        let rows = [
            ("a request is being answered", None, s(1_000), look),
            ("idle for a while", idle(1_000), s(50), look),
            ("idle for almost too long", idle(1_000), s(100), Verdict::Fine(s(1))),
            ("idle for too long", idle(1_000), s(101), Verdict::Idle),
            ("a head that begins", head(0), s(1), look),
            ("a head that takes too long", head(0), s(8), Verdict::SlowHead),
        ];
        for (what, since, age, expected) in rows {
            assert_eq!(judge(since, age, &clocks), expected, "{what}");
        }
    }
}
