//! Whether a function is asked for more than it can serve, for good and not for a moment.
//!
//! In order of arrival every request waits equally long, and under lasting overload that is too long for
//! all of them: the slots work on answers that nobody waits for any more. Then the newest go first, and
//! who has waited too long is told so ("Fail at Scale", ACM Queue 13/8, 2015, adaptive LIFO). A burst is no
//! overload: its queue becomes shorter from the first answer on. What counts is the shortest queue of a while,
//! as in CoDel (RFC 8289). `docs/holding.md` has the reasons.

use std::time::{Duration, Instant};

/// Requests that wait for each slot when a queue is deep: a newcomer waits for eight service times.
const DEEP: u64 = 8;
/// No queue is deep with fewer: how long queues are normal below full load does not depend on the slots.
const SHORT: u64 = 40;
/// Share of `hold.timeout` for which a deep queue may not become shorter: 0.5 s of the default 30 s.
const LASTING: u32 = 60;
/// Share of `hold.timeout` after which a request is told under overload: 6 s of the default 30 s.
const TOO_OLD: u32 = 5;

/// A queue at the moment when a slot is free for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    /// Requests that wait.
    pub(super) held: u32,
    /// Slots on open pods, free or not.
    pub(super) slots: u64,
}

impl Queue {
    fn is_deep(self) -> bool {
        self.slots > 0 && u64::from(self.held) >= DEEP.saturating_mul(self.slots).max(SHORT)
    }
}

/// Whether there is overload.
#[derive(Debug)]
pub(super) struct Overload {
    timeout: Duration,
    /// The shortest that the queue was since it became deep, and when that was first so; `None`: it is not deep.
    shortest: Option<(u32, Instant)>,
    /// Until when more pods are hoped for.
    help_until: Option<Instant>,
    active: bool,
}

impl Overload {
    /// No overload; a request may wait for `timeout`.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, shortest: None, help_until: None, active: false }
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

    /// Nobody waits.
    pub(super) fn end(&mut self) {
        (self.shortest, self.active) = (None, false);
    }

    /// A slot is free for a queue in which somebody waits.
    ///
    /// Overload begins when the queue has been deep for a while, and is no shorter at its end. It ends when fewer
    /// wait than there are slots.
    pub(super) fn look(&mut self, queue: Queue, now: Instant) {
        let helpless = self.help_until.is_none_or(|until| now >= until);
        if !helpless || !queue.is_deep() {
            self.shortest = None;
        } else if self.shortest.is_none_or(|(held, _)| queue.held < held) {
            self.shortest = Some((queue.held, now));
        }
        let lasts = |(_, since)| now.saturating_duration_since(since) >= self.timeout / LASTING;
        self.active = match self.active {
            true => helpless && u64::from(queue.held) >= queue.slots,
            false => self.shortest.is_some_and(lasts),
        };
    }

    /// Whether who came at `since` is told now that it takes too long.
    pub(super) fn too_old(&self, since: Instant, now: Instant) -> bool {
        self.active && now.saturating_duration_since(since) >= self.timeout / TOO_OLD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);
    const TENTH: Duration = Duration::from_millis(100);

    /// Shows a queue before ten slots every tenth of a second, of so many requests.
    fn show(overload: &mut Overload, start: Instant, slots: u64, held: &[u32]) {
        for (tenths, held) in (0..).zip(held) {
            overload.look(Queue { held: *held, slots }, start + tenths * TENTH);
        }
    }

    #[test]
    fn only_what_is_deep_and_lasts_and_cannot_be_helped_is_overload() {
        // Slots; tenths of a second until help; how many wait in each.
        type Row = (&'static str, u64, Option<u32>, &'static [u32], bool);
        let rows: [Row; 11] = [
            ("deep for long enough", 10, None, &[80; 6], true),
            ("growing", 10, None, &[80, 90, 100, 110, 120, 130], true),
            ("not for long", 10, None, &[80; 5], false),
            ("not deep", 10, None, &[79; 9], false),
            ("deep now and then", 10, None, &[80, 80, 80, 80, 79, 80, 80, 80, 80, 80], false),
            ("a burst that drains", 10, None, &[800, 700, 600, 500, 400, 300, 200, 100], false),
            ("no longer shorter", 10, None, &[800, 700, 690, 695, 700, 690, 705, 695], true),
            ("few wait, though long", 1, None, &[39; 9], false),
            ("help is on its way", 10, Some(9), &[80; 9], false),
            ("help did not come", 10, Some(2), &[80; 8], true),
            ("no pod", 0, None, &[800; 9], false),
        ];
        for (what, slots, help, held, expected) in rows {
            let start = Instant::now();
            let mut overload = Overload::new(TIMEOUT);
            overload.expect_help(help.map(|help| start + help * TENTH));
            show(&mut overload, start, slots, held);
            assert_eq!(overload.active(), expected, "{what}");
        }
    }

    #[test]
    fn it_ends_when_fewer_wait_than_there_are_slots() {
        let start = Instant::now();
        let mut overload = Overload::new(TIMEOUT);
        show(&mut overload, start, 10, &[80, 80, 80, 80, 80, 80, 20, 10]);
        let at = start + 8 * TENTH;
        assert!(overload.active());
        assert!(overload.too_old(at - TIMEOUT / 5, at));
        assert!(!overload.too_old(at - TIMEOUT / 6, at));
        overload.look(Queue { held: 9, slots: 10 }, at);
        assert!(!overload.active() && !overload.too_old(start, at + TIMEOUT));
        show(&mut overload, at, 10, &[80; 5]);
        assert!(!overload.active(), "it has to last anew");
    }

    #[test]
    fn after_help_has_come_the_queue_has_time_to_drain() {
        let start = Instant::now();
        let mut overload = Overload::new(TIMEOUT);
        overload.expect_help(Some(start + TIMEOUT));
        show(&mut overload, start, 10, &[800; 100]);
        overload.expect_help(None);
        let later = start + 100 * TENTH;
        show(&mut overload, later, 20, &[800, 790, 780, 770, 780, 790, 800, 810]);
        assert!(!overload.active());
        show(&mut overload, later + 8 * TENTH, 20, &[790]);
        assert!(overload.active());
    }
}
