//! A client's [patience](super::rate) on the clock: it runs only while we wait for that client.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::time::Sleep;

use super::rate::{MinRate, Patience};

/// Watches one client, in one direction.
#[derive(Debug)]
pub(super) struct Pace {
    patience: Patience,
    /// Since when we wait, if we do.
    since: Option<Instant>,
    /// Made when we first wait, which most never do. It is never set later than need be, and set again only when
    /// it fires, since bytes only move the deadline further away.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(super) fn new(rate: MinRate) -> Self {
        Self { patience: Patience::new(rate), since: None, timer: None }
    }

    /// Bytes have moved: we wait no longer.
    pub(super) fn moved(&mut self, bytes: usize) {
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
    pub(super) fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let deadline = since + self.patience.left();
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        loop {
            ready!(timer.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline.into());
        }
    }
}
