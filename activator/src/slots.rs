//! The slots of one function and the requests that wait for one: a central queue with late binding.
//!
//! A request is bound to a pod only when a slot is free, so no request waits behind a busy pod while
//! another pod has room. In order of arrival, under lasting overload the newest first ([`overload`]);
//! O(log n) removal; no clock, no IO, no locks.

mod overload;

use std::{
    cmp::Reverse,
    collections::VecDeque,
    time::{Duration, Instant},
};

use self::overload::{Overload, Queue};

/// Gaps in the queue that are left alone however few requests wait.
const FEW_GAPS: usize = 64;

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

#[derive(Debug)]
struct Held<W> {
    ticket: Ticket,
    bytes: u64,
    since: Instant,
    /// How many waited when it came.
    found: u32,
    /// `None` once the request has left: skipping a gap is cheaper than closing it.
    waiter: Option<W>,
}

impl<W> Held<W> {
    /// The request and its bytes, if it still waits.
    fn into_waiter(self) -> Option<(W, u64)> {
        self.waiter.map(|waiter| (waiter, self.bytes))
    }
}

/// Slots and held requests of one function. `P` identifies a pod, `W` a held request.
#[derive(Debug)]
pub struct Slots<W, P> {
    pods: Vec<PodSlots<P>>,
    queue: VecDeque<Held<W>>,
    overload: Overload,
    next_ticket: u64,
    held: u32,
    held_bytes: u64,
    in_flight: u32,
}

impl<W, P: Clone + PartialEq> Slots<W, P> {
    /// No pods, nobody waiting. A request may wait for `timeout`, which its caller sees to; here it is the
    /// measure of what is long.
    pub fn new(timeout: Duration) -> Self {
        let (pods, queue, overload) = (Vec::new(), VecDeque::new(), Overload::new(timeout));
        Self { pods, queue, overload, next_ticket: 0, held: 0, held_bytes: 0, in_flight: 0 }
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
        self.held
    }

    /// What waits.
    pub fn holding(&self) -> Holding {
        Holding { requests: self.held, bytes: self.held_bytes }
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
        if self.held > 0 { None } else { self.take_for(preferred) }
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
        self.overload.came(now);
        let mut pushed_out = Vec::new();
        let may_push = self.overloaded() && bounds.requests > 0 && bytes <= bounds.bytes;
        while let Some(full) = self.full(bytes, bounds) {
            match may_push.then(|| self.pop_oldest()).flatten() {
                Some(oldest) => pushed_out.push(oldest),
                None => return Err((waiter, full)),
            }
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.queue.push_back(Held { ticket, bytes, since: now, found: self.held, waiter: Some(waiter) });
        self.held += 1;
        self.held_bytes += bytes;
        Ok(Place { ticket, pushed_out })
    }

    fn full(&self, bytes: u64, bounds: HoldBounds) -> Option<Full> {
        if self.held >= bounds.requests {
            return Some(Full::Requests);
        }
        (self.held_bytes.saturating_add(bytes) > bounds.bytes).then_some(Full::Bytes)
    }

    /// A held request leaves without a slot: its caller is gone, or its time is over.
    pub fn leave(&mut self, ticket: Ticket) {
        let Ok(at) = self.queue.binary_search_by_key(&ticket, |held| held.ticket) else { return };
        let held = &mut self.queue[at];
        if held.waiter.take().is_some() {
            let bytes = held.bytes;
            self.left(bytes);
        }
        // Gaps cost memory only; a few of them are not worth closing.
        if self.queue.len() > 2 * self.held as usize + FEW_GAPS {
            self.queue.retain(|held| held.waiter.is_some());
        }
    }

    /// A request has left `pod`: its slot is free, if the pod is still open.
    pub fn put_back(&mut self, pod: &P) {
        let Some(at) = self.pods.iter().position(|known| known.pod == *pod) else { return };
        self.pods[at].in_flight -= 1;
        self.in_flight -= 1;
        if !self.pods[at].open && self.pods[at].in_flight == 0 {
            self.pods.swap_remove(at);
        }
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
        (self.held, self.held_bytes) = (0, 0);
        self.overload.end();
        self.queue.drain(..).filter_map(|held| held.waiter).collect()
    }

    /// Gives a free slot to the held request whose turn it is; `None` if there is no such slot or request.
    pub fn next(&mut self, now: Instant) -> Option<Grant<W, P>> {
        self.next_by(now, |_| None)
    }

    /// The same, where a request may have a pod that it would best go to.
    pub fn next_by(&mut self, now: Instant, preferred: impl Fn(&W) -> Option<&P>) -> Option<Grant<W, P>> {
        let found = self.front()?.found;
        if self.used().all(|(_, pod)| pod.free() == 0) {
            return None;
        }
        let slots = self.used().map(|(_, pod)| u64::from(pod.room)).sum();
        self.overload.look(Queue { held: self.held, found, slots }, now);
        // Somebody waits, as the oldest was there.
        let waiter = if self.overloaded() { self.pop_newest() } else { self.pop_oldest() }?;
        let pod = self.take_for(preferred(&waiter))?;
        Some(Grant { waiter, pod })
    }

    /// Since when the oldest held request has waited.
    pub fn oldest(&mut self) -> Option<Instant> {
        self.front().map(|oldest| oldest.since)
    }

    /// The oldest held request; gaps before it are closed.
    fn front(&mut self) -> Option<&Held<W>> {
        while self.queue.front()?.waiter.is_none() {
            self.queue.pop_front();
        }
        self.queue.front()
    }

    fn pop_oldest(&mut self) -> Option<W> {
        let (waiter, bytes) = std::iter::from_fn(|| self.queue.pop_front()).find_map(Held::into_waiter)?;
        self.left(bytes);
        Some(waiter)
    }

    fn pop_newest(&mut self) -> Option<W> {
        let (waiter, bytes) = std::iter::from_fn(|| self.queue.pop_back()).find_map(Held::into_waiter)?;
        self.left(bytes);
        Some(waiter)
    }

    /// One held request less.
    fn left(&mut self, bytes: u64) {
        self.held -= 1;
        self.held_bytes -= bytes;
        if self.held == 0 {
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
        assert_eq!((slots.held(), slots.held_bytes), (0, 0));
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

    /// One pod, 21 that wait, and for two periods as many came as were served.
    fn growing(start: Instant) -> Slots<u32, &'static str> {
        let mut slots = slots(1, &["a"]);
        assert_eq!(slots.take(None), Some("a"));
        for waiter in 0..21 {
            slots.hold(waiter, 10, BOUNDS, start).unwrap();
        }
        for waiter in 0..21 {
            let next = release(&mut slots, start + TIMEOUT / 60);
            assert_eq!(next, Some(waiter), "in order at first");
            slots.hold(21 + waiter, 10, BOUNDS, start + TIMEOUT / 60).unwrap();
        }
        slots
    }

    #[test]
    fn under_overload_the_newest_go_first_and_the_oldest_are_told() {
        let start = Instant::now();
        let mut slots = growing(start);
        let later = start + TIMEOUT / 20;
        assert!(!slots.overloaded() && slots.expire(later).is_empty());
        assert_eq!(release(&mut slots, later), Some(41), "the newest");
        assert!(slots.overloaded() && slots.expire(later).is_empty());
        slots.hold(50, 10, BOUNDS, later).unwrap();
        assert_eq!(slots.expire(start + TIMEOUT / 60 + TIMEOUT / 10), (21..41).collect::<Vec<_>>());
        assert_eq!((slots.held(), slots.held_bytes), (1, 10));
    }

    #[test]
    fn under_overload_the_oldest_make_room() {
        let start = Instant::now();
        let mut slots = growing(start);
        let bounds = HoldBounds { requests: 21, bytes: 230 };
        assert_eq!(slots.hold(60, 10, bounds, start), Err((60, Full::Requests)), "not before");
        release(&mut slots, start + TIMEOUT / 20);
        assert!(slots.hold(61, 10, bounds, start).unwrap().pushed_out.is_empty());
        assert_eq!(slots.hold(62, 10, bounds, start).unwrap().pushed_out, [21]);
        assert_eq!(slots.hold(63, 50, bounds, start).unwrap().pushed_out, [22, 23, 24]);
        assert_eq!(slots.hold(64, 231, bounds, start), Err((64, Full::Bytes)), "it never fits");
        assert_eq!(slots.held(), 19);
    }

    #[test]
    fn those_who_leave_do_not_pile_up_behind_one_who_stays() {
        let mut slots = slots(1, &[]);
        slots.hold(0, 1, BOUNDS, Instant::now()).unwrap();
        for waiter in 1..10_000 {
            let place = slots.hold(waiter, 1, BOUNDS, Instant::now()).unwrap();
            slots.leave(place.ticket);
        }
        assert!(slots.queue.len() < 100, "{}", slots.queue.len());
        assert_eq!(served(&open(&mut slots, "a", 1)), [(0, "a")]);
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
            let mut taken: Vec<_> = preferred.into_iter().chain(std::iter::from_fn(|| slots.take(None))).collect();
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
