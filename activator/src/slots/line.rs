//! The requests that wait, in order of arrival: taken from either end, and out of the middle in O(log n).

use std::{collections::VecDeque, time::Instant};

/// Gaps in the line that are left alone however few requests wait.
const FEW_GAPS: usize = 64;

/// What may wait, in requests and in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldBounds {
    /// How many requests.
    pub requests: u32,
    /// How many bytes of them are in memory.
    pub bytes: u64,
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// How many requests.
    pub requests: u32,
    /// How many bytes of them are in memory.
    pub bytes: u64,
}

/// Why a request may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// As many requests as may wait do.
    Requests,
    /// As many bytes as may wait do.
    Bytes,
}

/// Identifies a held request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Held<W> {
    ticket: Ticket,
    bytes: u64,
    since: Instant,
    /// `None` once the request has left: skipping a gap is cheaper than closing it.
    waiter: Option<W>,
}

/// The requests that wait.
#[derive(Debug)]
pub(super) struct Line<W> {
    line: VecDeque<Held<W>>,
    next_ticket: u64,
    holding: Holding,
}

impl<W> Line<W> {
    /// Nobody waits.
    pub(super) fn new() -> Self {
        Self { line: VecDeque::new(), next_ticket: 0, holding: Holding::default() }
    }

    /// What waits.
    pub(super) fn holding(&self) -> Holding {
        self.holding
    }

    /// How many wait.
    pub(super) fn len(&self) -> u32 {
        self.holding.requests
    }

    /// Why one more may not wait; `None`: it may.
    pub(super) fn full(&self, bytes: u64, bounds: HoldBounds) -> Option<Full> {
        if self.len() >= bounds.requests {
            return Some(Full::Requests);
        }
        (self.holding.bytes.saturating_add(bytes) > bounds.bytes).then_some(Full::Bytes)
    }

    /// One more waits.
    pub(super) fn push(&mut self, waiter: W, bytes: u64, now: Instant) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.line.push_back(Held { ticket, bytes, since: now, waiter: Some(waiter) });
        self.holding.requests += 1;
        self.holding.bytes += bytes;
        ticket
    }

    /// One leaves, if it still waits.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        let Ok(at) = self.line.binary_search_by_key(&ticket, |held| held.ticket) else { return };
        let held = &mut self.line[at];
        if held.waiter.take().is_some() {
            let bytes = held.bytes;
            self.left(bytes);
        }
        // Gaps cost memory only; a few of them are not worth closing.
        if self.line.len() > 2 * self.len() as usize + FEW_GAPS {
            self.line.retain(|held| held.waiter.is_some());
        }
    }

    /// Since when the oldest has waited.
    pub(super) fn oldest(&mut self) -> Option<Instant> {
        while self.line.front()?.waiter.is_none() {
            self.line.pop_front();
        }
        self.line.front().map(|oldest| oldest.since)
    }

    /// The oldest, which waits no longer.
    pub(super) fn pop_oldest(&mut self) -> Option<W> {
        self.pop(VecDeque::pop_front)
    }

    /// The newest, which waits no longer.
    pub(super) fn pop_newest(&mut self) -> Option<W> {
        self.pop(VecDeque::pop_back)
    }

    fn pop(&mut self, end: fn(&mut VecDeque<Held<W>>) -> Option<Held<W>>) -> Option<W> {
        loop {
            let Held { bytes, waiter, .. } = end(&mut self.line)?;
            if waiter.is_some() {
                self.left(bytes);
                return waiter;
            }
        }
    }

    /// All of them, oldest first; nobody waits afterwards.
    pub(super) fn drain(&mut self) -> Vec<W> {
        self.holding = Holding::default();
        self.line.drain(..).filter_map(|held| held.waiter).collect()
    }

    fn left(&mut self, bytes: u64) {
        self.holding.requests -= 1;
        self.holding.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_leave_do_not_pile_up_behind_one_who_stays() {
        let (mut line, now) = (Line::new(), Instant::now());
        line.push(0, 1, now);
        for waiter in 1..10_000 {
            let ticket = line.push(waiter, 1, now);
            line.leave(ticket);
        }
        assert!(line.line.len() < 100, "{}", line.line.len());
        assert_eq!((line.pop_oldest(), line.pop_oldest()), (Some(0), None));
    }

    #[test]
    fn gaps_are_nobody_from_either_end() {
        let (mut line, now) = (Line::new(), Instant::now());
        let tickets: Vec<_> = (0..6).map(|waiter| line.push(waiter, 10, now)).collect();
        [0, 2, 5, 5].into_iter().for_each(|at| line.leave(tickets[at]));
        assert_eq!(line.holding(), Holding { requests: 3, bytes: 30 });
        assert_eq!((line.oldest(), line.pop_newest(), line.pop_oldest()), (Some(now), Some(4), Some(1)));
        assert_eq!(line.drain(), [3]);
        assert_eq!((line.holding(), line.oldest()), (Holding::default(), None));
    }
}
