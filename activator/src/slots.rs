//! START HERE (slots): those of one function, and the requests that wait for one. A central queue with late binding.
//!
//! A request is bound to a pod only when a slot is free, so no request waits behind a busy pod while
//! another pod has room. In order of arrival (`line.rs`), under lasting overload the newest first ([`overload`]).
//! No clock, no IO, no locks.

mod line;
mod overload;

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

pub use self::line::{Full, HoldBounds, Holding, Ticket};
use self::{
    line::Line,
    overload::{Overload, Queue},
};

/// Requests in flight that a pod may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(Option<u32>);

impl Limit {
    /// A limit of `concurrency` in flight; 0 means none.
    pub fn new(concurrency: u32) -> Self {
        Self((concurrency > 0).then_some(concurrency))
    }

    /// The limit; `None`: there is none.
    pub fn get(self) -> Option<u32> {
        self.0
    }
}

/// A slot that was given to a held request.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant<W, P> {
    /// The request that waited.
    pub waiter: W,
    /// The pod that it goes to; one more is now counted in flight there.
    pub pod: P,
}

#[derive(Debug)]
struct PodSlots<P> {
    pod: P,
    in_flight: u32,
    /// Requests in flight that it may have from this activator.
    room: u32,
    /// Whether new requests may go there.
    open: bool,
    /// Whether it takes requests and does not answer.
    silent: bool,
}

impl<P> PodSlots<P> {
    /// How many more requests it may have.
    fn free(&self) -> u32 {
        self.room.saturating_sub(self.in_flight)
    }
}

/// A place in the queue, and those who lost theirs for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Place<W> {
    /// The place.
    pub ticket: Ticket,
    /// Older requests that had to go for it: only under overload.
    pub pushed_out: Vec<W>,
}

/// Slots and held requests of one function. `P` identifies a pod, `W` a held request.
#[derive(Debug)]
pub struct Slots<W, P> {
    pods: Vec<PodSlots<P>>,
    line: Line<W>,
    overload: Overload,
    in_flight: u32,
}

impl<W, P: Clone + PartialEq> Slots<W, P> {
    /// No pods, nobody waiting. A request may wait for `timeout`, which its caller sees to; here it is the
    /// measure of what is long.
    pub fn new(timeout: Duration) -> Self {
        Self { pods: Vec::new(), line: Line::new(), overload: Overload::new(timeout), in_flight: 0 }
    }

    /// Whether there is overload: the newest go first, and the oldest are told that it takes too long.
    pub fn overloaded(&self) -> bool {
        self.overload.active()
    }

    /// More pods are on their way, and until then there is no overload; `None`: there are none.
    pub fn expect_help(&mut self, until: Option<Instant>) {
        self.overload.expect_help(until);
    }

    /// Requests in flight, on pods of any state.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Requests that wait.
    pub fn held(&self) -> u32 {
        self.line.len()
    }

    /// What waits.
    pub fn holding(&self) -> Holding {
        self.line.holding()
    }

    /// Pods that take new requests.
    pub fn open_pods(&self) -> usize {
        self.used().count()
    }

    /// The pods that are open; of those that are silent only if all are, for then there is nothing better.
    fn used(&self) -> impl Iterator<Item = (usize, &PodSlots<P>)> {
        let heard = self.pods.iter().any(|pod| pod.open && !pod.silent);
        self.pods.iter().enumerate().filter(move |(_, pod)| pod.open && !(heard && pod.silent))
    }

    /// Requests in flight on `pod`.
    pub fn in_flight_on(&self, pod: &P) -> u32 {
        self.pods.iter().find(|known| known.pod == *pod).map_or(0, |known| known.in_flight)
    }

    /// Whether `pod` takes new requests.
    pub fn is_open(&self, pod: &P) -> bool {
        self.used().any(|(_, known)| known.pod == *pod)
    }

    /// Free slots.
    pub fn free(&self) -> u32 {
        self.used().fold(0, |sum, (_, pod)| sum.saturating_add(pod.free()))
    }

    /// Takes a free slot, on `preferred` if it has one, else on the pod with the most of them. The
    /// first of equals wins, so that at low load the last pods idle and can go.
    /// `None` when there is no free slot, or when others wait already.
    pub fn take(&mut self, preferred: Option<&P>) -> Option<P> {
        if self.held() > 0 { None } else { self.take_for(preferred) }
    }

    fn take_for(&mut self, preferred: Option<&P>) -> Option<P> {
        let preferred = preferred.and_then(|wanted| self.freest(|pod| pod == wanted));
        let at = preferred.or_else(|| self.freest(|_| true))?;
        self.pods[at].in_flight += 1;
        self.in_flight += 1;
        Some(self.pods[at].pod.clone())
    }

    /// The pod with the most free slots, the first of equals.
    fn freest(&self, usable: impl Fn(&P) -> bool) -> Option<usize> {
        let free = self.used().filter(|(_, pod)| pod.free() > 0 && usable(&pod.pod));
        free.min_by_key(|(_, pod)| Reverse(pod.free())).map(|(at, _)| at)
    }

    /// Takes a free slot of a pod that `usable` names, for somebody else: there is one less here.
    pub fn lend(&mut self, usable: impl Fn(&P) -> bool) -> Option<P> {
        let at = self.freest(usable)?;
        self.pods[at].room -= 1;
        Some(self.pods[at].pod.clone())
    }

    /// Lets a request wait at the end of the queue. Under overload the oldest make room for it.
    ///
    /// # Errors
    /// When the bounds are reached; the waiter comes back.
    pub fn hold(
        &mut self,
        waiter: W,
        bytes: u64,
        bounds: HoldBounds,
        now: Instant,
    ) -> Result<Place<W>, (W, Full)> {
        let mut pushed_out = Vec::new();
        let may_push = self.overloaded() && bounds.requests > 0 && bytes <= bounds.bytes;
        while let Some(full) = self.line.full(bytes, bounds) {
            match may_push.then(|| self.pop_oldest()).flatten() {
                Some(oldest) => pushed_out.push(oldest),
                None => return Err((waiter, full)),
            }
        }
        let ticket = self.line.push(waiter, bytes, now);
        Ok(Place { ticket, pushed_out })
    }

    /// A held request leaves without a slot: its caller is gone, or its time is over.
    pub fn leave(&mut self, ticket: Ticket) {
        self.line.leave(ticket);
        self.fewer_wait();
    }

    /// A request has left `pod`: its slot is free, if the pod is still open. Returns whether it was the last one
    /// of a closed pod.
    pub fn put_back(&mut self, pod: &P) -> bool {
        let Some(at) = self.pods.iter().position(|known| known.pod == *pod) else { return false };
        self.pods[at].in_flight -= 1;
        self.in_flight -= 1;
        let last = !self.pods[at].open && self.pods[at].in_flight == 0;
        if last {
            self.pods.swap_remove(at);
        }
        last
    }

    /// Held requests that are to be told now that it takes too long: only under overload.
    pub fn expire(&mut self, now: Instant) -> Vec<W> {
        std::iter::from_fn(|| {
            let since = self.oldest()?;
            if self.overload.too_old(since, now) { self.pop_oldest() } else { None }
        })
        .collect()
    }

    /// Opens a pod to requests, of which it may have `room` at once.
    pub fn open(&mut self, pod: P, room: u32) {
        match self.pods.iter_mut().find(|known| known.pod == pod) {
            Some(known) => (known.open, known.room) = (true, room),
            None => self.pods.push(PodSlots { pod, in_flight: 0, room, open: true, silent: false }),
        }
    }

    /// Whether `pod` takes requests and does not answer: then it is used only while all are so.
    pub fn set_silent(&mut self, pod: &P, silent: bool) {
        if let Some(known) = self.pods.iter_mut().find(|known| known.pod == *pod) {
            known.silent = silent;
        }
    }

    /// Changes how many requests `pod` may have at once.
    pub fn set_room(&mut self, pod: &P, room: u32) {
        if let Some(known) = self.pods.iter_mut().find(|known| known.pod == *pod) {
            known.room = room;
        }
    }

    /// Closes a pod to new requests; what is in flight there goes on.
    pub fn close(&mut self, pod: &P) {
        if let Some(at) = self.pods.iter().position(|known| known.pod == *pod) {
            self.pods[at].open = false;
            if self.pods[at].in_flight == 0 {
                self.pods.swap_remove(at);
            }
        }
    }

    /// Changes how long a request may wait.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.overload.set_timeout(timeout);
    }

    /// Every held request, oldest first; nobody waits afterwards.
    pub fn dismiss(&mut self) -> Vec<W> {
        self.overload.end();
        self.line.drain()
    }

    /// Gives a free slot to the held request whose turn it is; `None` if there is no such slot or request.
    pub fn next(&mut self, now: Instant) -> Option<Grant<W, P>> {
        self.next_by(now, |_| None)
    }

    /// The same, where a request may have a pod that it would best go to.
    pub fn next_by(&mut self, now: Instant, preferred: impl Fn(&W) -> Option<&P>) -> Option<Grant<W, P>> {
        if self.held() == 0 || self.used().all(|(_, pod)| pod.free() == 0) {
            return None;
        }
        let slots = self.used().map(|(_, pod)| u64::from(pod.room)).sum();
        self.overload.look(Queue { held: self.held(), slots }, now);
        // Somebody waits, as the oldest was there.
        let waiter = if self.overloaded() { self.line.pop_newest() } else { self.line.pop_oldest() }?;
        self.fewer_wait();
        let pod = self.take_for(preferred(&waiter))?;
        Some(Grant { waiter, pod })
    }

    /// Since when the oldest held request has waited.
    pub fn oldest(&mut self) -> Option<Instant> {
        self.line.oldest()
    }

    fn pop_oldest(&mut self) -> Option<W> {
        let oldest = self.line.pop_oldest();
        self.fewer_wait();
        oldest
    }

    fn fewer_wait(&mut self) {
        if self.held() == 0 {
            self.overload.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: HoldBounds = HoldBounds { requests: 100, bytes: 1_000 };

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn slots(concurrency: u32, pods: &[&'static str]) -> Slots<u32, &'static str> {
        let mut slots = Slots::new(TIMEOUT);
        for pod in pods {
            slots.open(*pod, Limit::new(concurrency).get().unwrap_or(u32::MAX));
        }
        slots
    }

    fn open(
        slots: &mut Slots<u32, &'static str>,
        pod: &'static str,
        room: u32,
    ) -> Vec<Grant<u32, &'static str>> {
        slots.open(pod, room);
        std::iter::from_fn(|| slots.next(Instant::now())).collect()
    }

    /// A request leaves pod `a`; who is next?
    fn release(slots: &mut Slots<u32, &'static str>, now: Instant) -> Option<u32> {
        slots.put_back(&"a");
        slots.next(now).map(|grant| grant.waiter)
    }

    fn served(grants: &[Grant<u32, &'static str>]) -> Vec<(u32, &'static str)> {
        grants.iter().map(|grant| (grant.waiter, grant.pod)).collect()
    }

    #[test]
    fn the_pod_with_the_least_in_flight_is_taken_and_the_limit_is_hard() {
        let mut slots = slots(2, &["a", "b"]);
        let taken: Vec<_> = std::iter::from_fn(|| slots.take(None)).collect();
        assert_eq!(taken, ["a", "b", "a", "b"]);
        assert_eq!(slots.in_flight(), 4);
    }

    #[test]
    fn a_preferred_pod_is_taken_while_it_has_room() {
        let mut slots = slots(1, &["a", "b"]);
        assert_eq!(slots.take(Some(&"b")), Some("b"));
        assert_eq!(slots.take(Some(&"b")), Some("a"), "full: another serves");
        assert_eq!(slots.take(Some(&"b")), None);
    }

    #[test]
    fn no_limit_takes_any_number() {
        let mut slots = slots(0, &["a"]);
        assert!((0..10_000).all(|_| slots.take(None) == Some("a")));
    }

    #[test]
    fn a_new_pod_gets_what_it_can_hold_and_not_the_whole_queue() {
        let mut slots = slots(2, &[]);
        for waiter in 0..5 {
            slots.hold(waiter, 1, BOUNDS, Instant::now()).unwrap();
        }
        assert_eq!(served(&open(&mut slots, "a", 2)), [(0, "a"), (1, "a")]);
        assert_eq!(release(&mut slots, Instant::now()), Some(2), "the oldest is next");
        assert_eq!((slots.held(), slots.in_flight()), (2, 2));
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let mut slots = slots(1, &["a"]);
        assert_eq!(slots.take(None), Some("a"));
        slots.hold(7, 1, BOUNDS, Instant::now()).unwrap();
        slots.close(&"a");
        assert_eq!(slots.take(None), None);
        assert_eq!(served(&open(&mut slots, "b", 1)), [(7, "b")]);
    }

    #[test]
    fn those_who_leave_free_their_place() {
        let mut slots = slots(1, &[]);
        let tickets: Vec<_> =
            (0..3).map(|waiter| slots.hold(waiter, 300, BOUNDS, Instant::now()).unwrap().ticket).collect();
        assert_eq!(slots.hold(9, 300, BOUNDS, Instant::now()), Err((9, Full::Bytes)));
        slots.leave(tickets[1]);
        slots.leave(tickets[1]);
        slots.hold(3, 300, BOUNDS, Instant::now()).unwrap();
        slots.leave(tickets[0]);
        assert_eq!(served(&open(&mut slots, "a", 1)), [(2, "a")]);
        slots.leave(tickets[2]);
        assert_eq!(release(&mut slots, Instant::now()), Some(3));
        assert_eq!((slots.holding(), slots.line.oldest()), (Holding::default(), None));
    }

    #[test]
    fn bounds_are_kept() {
        let mut slots = slots(1, &[]);
        let two = HoldBounds { requests: 2, bytes: 1_000 };
        assert!(
            slots.hold(0, 1, two, Instant::now()).is_ok() && slots.hold(1, 1, two, Instant::now()).is_ok()
        );
        assert_eq!(slots.hold(2, 1, two, Instant::now()), Err((2, Full::Requests)));
    }

    #[test]
    fn a_closed_pod_finishes_what_it_has_and_is_forgotten() {
        let mut slots = slots(2, &["a"]);
        slots.take(None).unwrap();
        slots.close(&"a");
        assert_eq!((slots.take(None), slots.in_flight_on(&"a"), slots.open_pods()), (None, 1, 0));
        assert_eq!(release(&mut slots, Instant::now()), None);
        assert!(slots.pods.is_empty());
        assert_eq!(release(&mut slots, Instant::now()), None, "a second release changes nothing");
        assert_eq!(slots.in_flight(), 0);
    }

    /// When the queue of [`deep`] has been so for long enough.
    fn lasting(start: Instant) -> Instant {
        start + TIMEOUT / 60
    }

    /// One pod, and 41 that wait, as many as before when one was served.
    fn deep(start: Instant) -> Slots<u32, &'static str> {
        let mut slots = slots(1, &["a"]);
        assert_eq!(slots.take(None), Some("a"));
        for waiter in 0..41 {
            slots.hold(waiter, 10, BOUNDS, start).unwrap();
        }
        assert_eq!(release(&mut slots, start), Some(0), "in order at first");
        slots.hold(41, 10, BOUNDS, start).unwrap();
        slots
    }

    #[test]
    fn under_overload_the_newest_go_first_and_the_oldest_are_told() {
        let start = Instant::now();
        let mut slots = deep(start);
        let later = lasting(start);
        assert!(!slots.overloaded() && slots.expire(later).is_empty());
        assert_eq!(release(&mut slots, later), Some(41), "the newest");
        assert!(slots.overloaded() && slots.expire(later).is_empty());
        slots.hold(50, 10, BOUNDS, later).unwrap();
        assert_eq!(slots.expire(start + TIMEOUT / 5), (1..41).collect::<Vec<_>>());
        assert_eq!(slots.holding(), Holding { requests: 1, bytes: 10 });
    }

    #[test]
    fn under_overload_the_oldest_make_room() {
        let start = Instant::now();
        let mut slots = deep(start);
        let bounds = HoldBounds { requests: 41, bytes: 430 };
        assert_eq!(slots.hold(60, 10, bounds, start), Err((60, Full::Requests)), "not before");
        release(&mut slots, lasting(start));
        assert!(slots.hold(61, 10, bounds, start).unwrap().pushed_out.is_empty());
        assert_eq!(slots.hold(62, 10, bounds, start).unwrap().pushed_out, [1]);
        assert_eq!(slots.hold(63, 50, bounds, start).unwrap().pushed_out, [2, 3, 4]);
        assert_eq!(slots.hold(64, 431, bounds, start), Err((64, Full::Bytes)), "it never fits");
        assert_eq!(slots.held(), 39);
    }

    #[test]
    fn a_held_request_goes_to_the_pod_it_prefers_if_that_is_free() {
        let mut slots = slots(1, &[]);
        for waiter in 0..2 {
            slots.hold(waiter, 1, BOUNDS, Instant::now()).unwrap();
        }
        slots.open("a", 1);
        slots.open("b", 1);
        let next = || slots.next_by(Instant::now(), |_| Some(&"b"));
        let granted: Vec<_> = std::iter::from_fn(next).collect();
        assert_eq!(served(&granted), [(0, "b"), (1, "a")]);
    }

    #[test]
    fn silent_pods_are_used_only_while_all_are_silent() {
        // Pods that are open, of these the silent ones, those that requests go to.
        let rows: [(&[&str], &[&str], &[&str]); 6] = [
            (&["a", "b", "c"], &[], &["a", "b", "c"]),
            (&["a", "b", "c"], &["b"], &["a", "c"]),
            (&["a", "b", "c"], &["a", "b"], &["c"]),
            (&["a", "b"], &["a", "b"], &["a", "b"]),
            (&["a"], &["a"], &["a"]),
            (&["a"], &["a", "b"], &["a"]),
        ];
        for (opened, silent, used) in rows {
            let mut slots = slots(1, &["a", "b", "c"]);
            silent.iter().for_each(|pod| slots.set_silent(pod, true));
            ["a", "b", "c"].iter().filter(|pod| !opened.contains(pod)).for_each(|pod| slots.close(pod));
            assert_eq!((slots.open_pods(), slots.free() as usize), (used.len(), used.len()), "{silent:?}");
            assert!(opened.iter().all(|pod| slots.is_open(pod) == used.contains(pod)), "{silent:?}");
            let preferred = slots.take(Some(&"b"));
            assert_eq!(preferred == Some("b"), used.contains(&"b"), "{silent:?}: though it is preferred");
            let mut taken: Vec<_> =
                preferred.into_iter().chain(std::iter::from_fn(|| slots.take(None))).collect();
            taken.sort_unstable();
            assert_eq!(taken, used, "{silent:?}");
            slots.hold(1, 1, BOUNDS, Instant::now()).unwrap();
            opened.iter().for_each(|pod| slots.set_silent(pod, false));
            let waits = slots.next(Instant::now()).is_none();
            assert_eq!(waits, used == opened, "{silent:?}: one that is heard again takes who waits");
        }
    }

    #[test]
    fn what_is_lent_is_gone_until_there_is_room_again() {
        let mut slots = slots(2, &["a", "b"]);
        assert_eq!(slots.lend(|pod| *pod == "b"), Some("b"));
        assert_eq!((slots.free(), slots.in_flight()), (3, 0));
        assert_eq!(slots.take(None), Some("a"), "it has the most room");
        slots.set_room(&"a", 0);
        assert_eq!(
            (slots.take(None), slots.take(None)),
            (Some("b"), None),
            "more in flight than room is no room"
        );
        assert_eq!(slots.lend(|_| true), None);
        slots.put_back(&"a");
        assert_eq!(slots.take(None), None);
        slots.set_room(&"a", 1);
        assert_eq!(slots.take(None), Some("a"));
    }
}
