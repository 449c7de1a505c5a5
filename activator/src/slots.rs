//! START HERE (slots): those of one function, and the requests that wait for one. A central queue with late binding.
//!
//! A request is bound to a pod only when a slot is free, so no request waits behind a busy pod while
//! another pod has room. In order of arrival (`line.rs`), under lasting overload the newest first ([`overload`]).
//! No clock, no IO, no locks.

mod line;
mod overload;
#[cfg(test)]
mod tests;

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
