//! A client's body on its way to a pod: gated, paced, and kept for as long as it may have to be sent again.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    incoming::{Incoming, IncomingError},
    progress::Progress,
    supply::{Kept, Supply},
};
use crate::proxy::{
    client::{MinRate, Pace},
    expect::Gate,
};

/// A client's body on its way to a pod.
#[derive(Debug)]
pub struct RequestBody {
    supply: Supply,
    gate: Option<Gate>,
    progress: Arc<Progress>,
    pace: Pace,
    /// Where it is kept in case it has to be sent again.
    kept: Option<Arc<Kept>>,
}

/// Why a request's body ended too early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It broke off or is malformed.
    #[error("{0}")]
    Broken(#[from] IncomingError),
    /// The client sends too slowly.
    #[error("the client sends less than the minimum rate")]
    Slow,
    /// The response has ended without the rest of it.
    #[error("the response has ended")]
    Unwanted(#[source] h2::Error),
}

impl RequestBody {
    /// Wraps a client's body.
    pub(in crate::proxy) fn new(body: Incoming, now: Instant) -> Self {
        Self::of(if body.is_end_stream() { Supply::Nothing } else { Supply::Client(body) }, now)
    }

    /// What was sent before.
    pub(in crate::proxy) fn again(pieces: Vec<Bytes>) -> Self {
        Self::of(Supply::Again(pieces.into_iter()), Instant::now())
    }

    /// No body.
    pub(in crate::proxy) fn empty() -> Self {
        Self::of(Supply::Nothing, Instant::now())
    }

    fn of(supply: Supply, now: Instant) -> Self {
        let progress = Arc::new(Progress::begin(now, supply.is_end_stream()));
        Self { supply, gate: None, progress, pace: Pace::new(MinRate::default()), kept: None }
    }

    /// From now on it has to come at a rate.
    pub(in crate::proxy) fn keep_to(&mut self, rate: MinRate) {
        self.pace = Pace::new(rate);
    }

    /// Keeps the body until a gate opens.
    pub(in crate::proxy) fn keep_behind(&mut self, gate: Gate) {
        self.gate = Some(gate);
        self.progress.unasked.store(true, Ordering::Relaxed);
    }

    /// Keeps what is sent from now on.
    pub(in crate::proxy) fn keep_in(&mut self, kept: Arc<Kept>) {
        self.kept = Some(kept);
    }

    /// How far the body has come.
    pub(in crate::proxy) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The clock starts when the request is forwarded, not while it is held.
    pub(in crate::proxy) fn forwarded(&self, now: Instant) {
        self.progress.note(now);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { supply, gate, progress, pace, kept } = &mut *self;
        if let Supply::Nothing = supply {
            return Poll::Ready(None);
        }
        if progress.is_abandoned(cx) {
            return Poll::Ready(Some(Err(BodyError::Unwanted(h2::Reason::CANCEL.into()))));
        }
        if let Some(closed) = gate {
            ready!(closed.poll(cx));
            *gate = None;
            progress.unasked.store(false, Ordering::Relaxed);
        }
        let Poll::Ready(frame) = supply.poll_frame(cx) else {
            progress.waiting.store(true, Ordering::Relaxed);
            if progress.answered.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            ready!(pace.poll_overdue(cx));
            progress.slow.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(BodyError::Slow)));
        };
        progress.note(Instant::now());
        progress.waiting.store(false, Ordering::Relaxed);
        match &frame {
            Some(Ok(frame)) => pace.moved(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => progress.broken.store(true, Ordering::Relaxed),
            None => {}
        }
        let last = frame.is_none() || supply.is_end_stream();
        if last {
            progress.end();
        }
        if let Some(kept) = kept {
            kept.note(frame.as_ref().and_then(|frame| frame.as_ref().ok()), last);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.supply.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.supply.size_hint()
    }
}
