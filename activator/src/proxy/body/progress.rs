//! How far a request's body has come.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::Context,
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

use crate::function::Timeouts;

/// How far a request's body has come, for whoever waits for the response.
#[derive(Debug)]
pub(in crate::proxy) struct Progress {
    began: Instant,
    /// Milliseconds after `began` of the last piece.
    last: AtomicU64,
    ended: AtomicBool,
    pub(super) broken: AtomicBool,
    /// Whether the pod waits for more, and the client has not sent it.
    pub(super) waiting: AtomicBool,
    pub(super) slow: AtomicBool,
    pub(super) answered: AtomicBool,
    /// Whether the body still waits for the pod to ask for it.
    pub(super) unasked: AtomicBool,
    /// Whether the response has ended, so that nobody wants the rest of the body.
    abandoned: AtomicBool,
    waker: AtomicWaker,
}

impl Progress {
    /// Of a body of which nothing has come yet; `ended`: nothing will.
    pub(super) fn begin(now: Instant, ended: bool) -> Self {
        Self {
            began: now,
            last: AtomicU64::new(0),
            ended: ended.into(),
            broken: false.into(),
            waiting: false.into(),
            slow: false.into(),
            answered: false.into(),
            unasked: false.into(),
            abandoned: false.into(),
            waker: AtomicWaker::new(),
        }
    }

    /// Whether the client's body broke off or was malformed: then whatever follows is the client's doing.
    pub(in crate::proxy) fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Whether the client has sent less than the minimum rate, and the body was given up.
    pub(in crate::proxy) fn slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// Whether it is the client that everybody waits for.
    pub(in crate::proxy) fn waits_for_client(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The response has begun: from now on the two are a conversation, in which a client may be silent.
    pub(in crate::proxy) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Whether the pod has not asked for the body, which waits for that.
    pub(in crate::proxy) fn unasked(&self) -> bool {
        self.unasked.load(Ordering::Relaxed)
    }

    /// Whether all of it has been handed over.
    pub(in crate::proxy) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Nobody wants the rest: whoever sends the body is to stop, and the client with it.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether that is so. Who asks is woken when it is.
    pub(in crate::proxy) fn is_abandoned(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.abandoned.load(Ordering::Acquire)
    }

    pub(super) fn note(&self, now: Instant) {
        self.last.store(now.duration_since(self.began).as_millis() as u64, Ordering::Relaxed);
    }

    /// The body has been handed over: from now on the response is what is waited for.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// When the next piece, or the response's head, is overdue.
    pub(in crate::proxy) fn overdue(&self, timeouts: &Timeouts) -> Instant {
        let last = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed));
        last + if self.ended() { timeouts.first_byte } else { timeouts.idle }
    }
}
