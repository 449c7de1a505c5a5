//! Whether a function is asked for more than it can serve, for good and not for a moment.
//!
//! In order of arrival every request waits equally long, and under lasting overload that is too long for
//! all of them: the slots work on answers that nobody waits for any more. Then the newest go first, and
//! who has waited too long is told so ("Fail at Scale", ACM Queue 13/8, 2015, adaptive LIFO). A burst is no
//! overload: requests are only lost where some would be lost in any order. `docs/holding.md` has the reasons.

use std::time::{Duration, Instant};

/// Requests that wait for each slot when a queue is deep. What waits behind fewer is served after ten service
/// times, and a queue of this length builds up below full load, too, if some requests take very long.
const DEEP: u64 = 20;
/// Share of `hold.timeout` that makes a period: 0.5 s of the default 30 s.
const PERIOD: u32 = 60;
/// In how many periods in a row at least as many must come as are served: a burst fills one.
const LASTING: u32 = 2;
/// Share of `hold.timeout` after which a request is told under overload: 3 s of the default 30 s.
const TOO_OLD: u32 = 10;

/// A queue at the moment when a slot is free for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    /// Requests that wait.
    pub(super) held: u32,
    /// Requests that waited when the oldest of them came.
    pub(super) found: u32,
    /// Slots on open pods, free or not.
    pub(super) slots: u64,
}

#[derive(Clone, Copy, Debug)]
struct Period {
    began: Instant,
    came: u32,
    served: u32,
}

/// Whether there is overload.
#[derive(Debug)]
pub(super) struct Overload {
    timeout: Duration,
    /// The period under way; `None` while nobody waits.
    period: Option<Period>,
    /// Periods in a row in which somebody always waited, and at least as many came as were served.
    growing: u32,
    /// Until when more pods are hoped for.
    help_until: Option<Instant>,
    active: bool,
}

impl Overload {
    /// No overload; a request may wait for `timeout`.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, period: None, growing: 0, help_until: None, active: false }
    }

    /// Changes how long a request may wait.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// More pods are on their way, and are hoped for until then; `None`: there are none.
    pub(super) fn expect_help(&mut self, until: Option<Instant>) {
        self.help_until = until;
    }

    /// Whether the newest go first.
    pub(super) fn active(&self) -> bool {
        self.active
    }

    /// A request came that found no slot, whether it may wait or not.
    pub(super) fn came(&mut self, now: Instant) {
        self.period.get_or_insert(Period::begin(now)).came += 1;
    }

    /// Nobody waits.
    pub(super) fn end(&mut self) {
        (self.period, self.growing, self.active) = (None, 0, false);
    }

    /// A slot is free for a queue in which somebody waits.
    ///
    /// Overload begins when the queue has grown for a while, is deep, and is no shorter than the oldest request
    /// found it. It ends when fewer wait than there are slots.
    pub(super) fn look(&mut self, queue: Queue, now: Instant) {
        let helpless = queue.slots > 0 && self.help_until.is_none_or(|until| now >= until);
        self.count(now);
        if !helpless {
            (self.period, self.growing) = (Some(Period::begin(now)), 0);
        }
        let deep = u64::from(queue.found) >= DEEP.saturating_mul(queue.slots);
        self.active = helpless
            && match self.active {
                true => u64::from(queue.held) >= queue.slots,
                false => self.growing >= LASTING && deep && queue.held >= queue.found,
            };
    }

    /// Counts a request that is served, and closes the period if it is over.
    fn count(&mut self, now: Instant) {
        let period = self.period.get_or_insert(Period::begin(now));
        period.served += 1;
        if now.saturating_duration_since(period.began) >= self.timeout / PERIOD {
            self.growing = if period.came >= period.served { self.growing + 1 } else { 0 };
            *period = Period::begin(now);
        }
    }

    /// Whether who came at `since` is told now that it takes too long.
    pub(super) fn too_old(&self, since: Instant, now: Instant) -> bool {
        self.active && now.saturating_duration_since(since) >= self.timeout / TOO_OLD
    }
}

impl Period {
    fn begin(now: Instant) -> Self {
        Self { began: now, came: 0, served: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);
    const HALF: Duration = Duration::from_millis(500);

    fn queue(held: u32, found: u32) -> Queue {
        Queue { held, found, slots: 2 }
    }

    /// Over half a second one is served, and so many come.
    fn half_a_second(overload: &mut Overload, began: Instant, came: u32, seen: Queue) -> Instant {
        (0..came).for_each(|_| overload.came(began));
        overload.look(seen, began + HALF);
        began + HALF
    }

    #[test]
    fn only_what_lasts_and_grows_and_cannot_be_helped_is_overload() {
        let full = queue(40, 40);
        // Half seconds until help, requests that come in each, what is seen.
        type Row = (&'static str, Option<u32>, &'static [u32], Queue, bool);
        let rows: [Row; 9] = [
            ("lasting, deep, growing", None, &[1, 1], full, true),
            ("not for long", None, &[1], full, false),
            ("a burst that drains", None, &[400, 0, 0, 0], full, false),
            ("now and then", None, &[1, 0, 1, 0, 1], full, false),
            ("not deep", None, &[1, 1], queue(400, 39), false),
            ("shorter than it was found", None, &[1, 1], queue(399, 400), false),
            ("help is on its way", Some(6), &[1, 1, 1, 1], full, false),
            ("help did not come", Some(2), &[1, 1, 1, 1], full, true),
            ("no pod", None, &[1, 1], Queue { slots: 0, ..full }, false),
        ];
        for (what, help, came, seen, expected) in rows {
            let start = Instant::now();
            let mut overload = Overload::new(TIMEOUT);
            overload.expect_help(help.map(|help| start + help * HALF));
            came.iter().fold(start, |at, came| half_a_second(&mut overload, at, *came, seen));
            assert_eq!(overload.active(), expected, "{what}");
        }
    }

    #[test]
    fn it_ends_when_fewer_wait_than_there_are_slots() {
        let start = Instant::now();
        let mut overload = Overload::new(TIMEOUT);
        let at = half_a_second(&mut overload, start, 1, queue(40, 40));
        let at = half_a_second(&mut overload, at, 1, queue(40, 40));
        let at = half_a_second(&mut overload, at, 0, queue(2, 0));
        assert!(overload.active());
        assert!(overload.too_old(at - TIMEOUT / 10, at));
        assert!(!overload.too_old(at - TIMEOUT / 11, at));
        overload.look(queue(1, 0), at);
        assert!(!overload.active() && !overload.too_old(start, at + TIMEOUT));
    }

    #[test]
    fn after_help_has_come_the_queue_has_time_to_drain() {
        let mut overload = Overload::new(TIMEOUT);
        let start = Instant::now();
        overload.expect_help(Some(start + TIMEOUT));
        let at = half_a_second(&mut overload, start, 9, queue(400, 400));
        let at = half_a_second(&mut overload, at, 9, queue(400, 400));
        overload.expect_help(None);
        let at = half_a_second(&mut overload, at, 9, queue(400, 400));
        assert!(!overload.active());
        half_a_second(&mut overload, at, 9, queue(400, 400));
        assert!(overload.active());
    }
}
