//! A client's [patience](super::rate) on the clock: it runs only while we wait for that client, and it runs out
//! sooner where what waits for the client is memory that others need.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use super::rate::{MinRate, Patience};
use crate::{
    memory::{ClientId, Debt, GRACE, Memory, UNREAD},
    proxy::clock::Clock,
};

/// Watches what one client sends.
#[derive(Debug)]
pub(in crate::proxy) struct Pace {
    patience: Patience,
    /// Since when we wait, if we do.
    since: Option<Instant>,
    clock: Clock,
}

impl Pace {
    /// Of a client that has sent nothing yet.
    pub(in crate::proxy) fn new(rate: MinRate) -> Self {
        Self { patience: Patience::new(rate), since: None, clock: Clock::default() }
    }

    /// Bytes have moved: we wait no longer.
    pub(in crate::proxy) fn moved(&mut self, bytes: usize) {
        self.stop();
        self.patience.moved(bytes);
    }

    /// We do not wait for the client, at least for now.
    fn stop(&mut self) {
        if let Some(since) = self.since.take() {
            self.patience.waited(since.elapsed());
        }
    }

    /// We wait for the client, from now on if not before. Ready when we have waited long enough.
    pub(in crate::proxy) fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.since() + self.patience.left();
        self.clock.poll(deadline, cx)
    }

    fn since(&mut self) -> Instant {
        *self.since.get_or_insert_with(Instant::now)
    }
}

/// Watches what one client reads, and what waits in our memory until it does.
#[derive(Debug)]
pub(super) struct ReaderPace {
    pace: Pace,
    memory: Arc<Memory>,
    /// When we have waited for a while.
    debt: Option<Debt>,
}

/// Why a client that does not read is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It is too slow.
    Slow,
    /// Others need the memory, and it keeps more of it than they do, or has kept it for longer.
    Evicted,
}

impl ReaderPace {
    /// Of a client that has read nothing yet.
    pub(super) fn new(rate: MinRate, memory: Arc<Memory>) -> Self {
        Self { pace: Pace::new(rate), memory, debt: None }
    }

    /// Bytes have moved: we wait no longer.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.debt = None;
        self.pace.moved(bytes);
    }

    /// We do not wait for the client, at least for now.
    pub(super) fn stop(&mut self) {
        self.debt = None;
        self.pace.stop();
    }

    /// We wait for the client, from now on if not before. Ready when we have waited long enough.
    pub(super) fn poll_overdue(&mut self, client: ClientId, cx: &mut Context<'_>) -> Poll<Overdue> {
        let since = self.pace.since();
        let deadline = since + self.pace.patience.left();
        let owes = match &self.debt {
            Some(debt) if debt.poll_ended(cx).is_ready() => return Poll::Ready(Overdue::Evicted),
            debt => debt.is_some() || !self.memory.is_bounded(),
        };
        if !owes && since + GRACE < deadline {
            ready!(self.pace.clock.poll(since + GRACE, cx));
            let debt = self.debt.insert(self.memory.owe(client, UNREAD, since));
            // It cannot have ended yet.
            let _ = debt.poll_ended(cx);
        }
        self.pace.clock.poll(deadline, cx).map(|()| Overdue::Slow)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test]
    async fn who_reads_and_stops_again_soon_owes_again() {
        let memory = Arc::<Memory>::default();
        memory.look(0, 1 << 30);
        let rate = MinRate { grace: Duration::from_secs(600), ..MinRate::default() };
        let mut pace = ReaderPace::new(rate, memory);
        for _ in 0..2 {
            let owes = poll_fn(|cx| {
                assert!(pace.poll_overdue(1, cx).is_pending());
                if pace.debt.is_some() { Poll::Ready(()) } else { Poll::Pending }
            });
            tokio::time::timeout(100 * GRACE, owes).await.unwrap();
            pace.moved(1);
        }
    }
}
