//! HTTP/2 streams whose client takes nothing of their response.
//!
//! A client that leaves a stream's window at zero keeps its response, and the slot that goes with it, while the
//! connection itself looks well. hyper then waits for the window in the stream's own task and asks the response's
//! body for nothing, so the body cannot end it. The task can: it knows whether the body was last asked for more
//! (then we wait for the pod) or has handed something over (then we wait for the client).

use std::{
    cell::Cell,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use hyper::rt::Executor;
use prometheus::IntCounter;

use super::{
    pace::{Overdue, ReaderPace},
    rate::MinRate,
};
use crate::memory::{ClientId, Memory, cost};

/// What a response's body was asked for in the course of one poll of its stream.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// The connection that it goes to.
    client: ClientId,
    /// Bytes that it handed over.
    bytes: usize,
    /// Whether it had nothing the last time that it was asked.
    in_vain: bool,
}

tokio::task_local! {
    /// Set by the body of this task's stream, taken by the task when it has polled the stream.
    static ASKED: Cell<Option<Asked>>;
}

/// A body has been asked for its next piece: its bytes, if there was one.
pub(super) fn note_asked(client: ClientId, piece: Option<usize>) {
    // With HTTP/1 it is not such a task that asks.
    let _ = ASKED.try_with(|asked| {
        let before = asked.get().map_or(0, |asked| asked.bytes);
        asked.set(Some(Asked { client, bytes: before + piece.unwrap_or(0), in_vain: piece.is_none() }));
    });
}

/// Runs the streams of HTTP/2 connections, and ends those whose client is too slow.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    rate: MinRate,
    memory: Arc<Memory>,
    ended: Ended,
}

/// Counts those that were ended: because their client is too slow, and because their memory was needed.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) slow: IntCounter,
    pub(super) evicted: IntCounter,
}

impl Streams {
    pub(super) fn new(rate: MinRate, memory: Arc<Memory>, ended: Ended) -> Self {
        Self { rate, memory, ended }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let pace = ReaderPace::new(self.rate, Arc::clone(&self.memory));
        let stream = ASKED.scope(Cell::new(None), watch(stream, pace, self.ended.clone()));
        if self.memory.take(cost::STREAM) {
            tokio::spawn(stream);
            return;
        }
        // It is going to be refused, unless it is the one that waits, and best at once: the streams that one client can
        // open at a stroke, times those of many clients, would all have a task before the first of these runs.
        let mut stream = Box::pin(stream);
        if stream.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::spawn(stream);
        }
    }
}

/// Drives a stream to its end, or drops it, which resets it, if its client is too slow or its memory is needed.
async fn watch(stream: impl Future, mut pace: ReaderPace, ended: Ended) {
    let mut stream = pin!(stream);
    // The client for which waits what the body last handed over, if it does.
    let mut waiting = None;
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Some(Asked { client, bytes, in_vain }) = ASKED.with(Cell::take) {
            pace.moved(bytes);
            waiting = Some(client).filter(|_| !in_vain);
        }
        let Some(client) = waiting else { return Poll::Pending };
        match ready!(pace.poll_overdue(client, cx)) {
            Overdue::Slow => ended.slow.inc(),
            Overdue::Evicted => ended.evicted.inc(),
        }
        Poll::Ready(())
    })
    .await;
}
