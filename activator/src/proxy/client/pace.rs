//! A client's [patience](super::rate) on the clock: it runs only while we wait for that client, and it runs out
//! sooner where what waits for the client is memory that others need.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::time::Sleep;

use super::rate::{MinRate, Patience};
use crate::memory::{Memory, Shortage};

/// How long a client may take nothing of a response when there is no memory left. While one is waited for, this is
/// also how often that is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Watches one client, in one direction.
#[derive(Debug)]
pub(in crate::proxy) struct Pace {
    patience: Patience,
    /// Since when we wait, if we do.
    since: Option<Instant>,
    /// Made when we first wait, which most never do. It is never set later than need be, and set again only when
    /// it fires, since bytes only move the deadline further away.
    timer: Option<Pin<Box<Sleep>>>,
    memory: Option<Arc<Memory>>,
}

impl Pace {
    /// For what a client sends.
    pub(in crate::proxy) fn of_sender(rate: MinRate) -> Self {
        Self { patience: Patience::new(rate), since: None, timer: None, memory: None }
    }

    /// For what a client reads, and what waits in our memory until it does.
    pub(super) fn of_reader(rate: MinRate, memory: Arc<Memory>) -> Self {
        Self { memory: Some(memory), ..Self::of_sender(rate) }
    }

    /// Bytes have moved: we wait no longer.
    pub(in crate::proxy) fn moved(&mut self, bytes: usize) {
        self.stop();
        self.patience.moved(bytes);
    }

    /// We do not wait for the client, at least for now.
    pub(super) fn stop(&mut self) {
        if let Some(since) = self.since.take() {
            self.patience.waited(since.elapsed());
        }
    }

    /// We wait for the client, from now on if not before. Ready when we have waited long enough.
    pub(in crate::proxy) fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let deadline = since + self.patience.left();
        let memory = self.memory.as_deref();
        let next = |now: Instant| if memory.is_some() { deadline.min(now + LOOK) } else { deadline };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next(since).into())));
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            let full = memory.is_some_and(|memory| memory.shortage() == Shortage::Full);
            if deadline <= now || full && since + LOOK <= now {
                return Poll::Ready(());
            }
            timer.as_mut().reset(next(now).into());
        }
    }
}
