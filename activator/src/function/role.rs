//! What this activator is to a function: its owner, or somebody to whom the owner lends slots.
//!
//! The owner has every slot that it has not lent; without peers it has lent none. The others have what was
//! lent to them. Where there is no limit nothing is lent: everybody sends what comes.

use std::{
    sync::{Arc, MutexGuard},
    time::Instant,
};

use pilotlight_crds::ColdStart;

use super::{
    FunctionState, Inner, PeerView, PodRef,
    lending::{hand_out, set_room},
};
use crate::{
    peer::{ByPod, CLAIMS_WITHIN, Down, Leases, Ledger, Load, MemberId, Owner, Up, Word},
    slots::Limit,
};

/// What this activator is to a function.
#[derive(Debug)]
pub(super) enum Role {
    /// Its owner.
    Owner(Book),
    /// Somebody who has leases from the owner.
    Lessee(Leases),
}

/// What an owner knows.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) ledger: Ledger,
    /// A new owner does not know at first what the others hold: until then it has what it had before.
    pub(super) takeover: Option<Takeover>,
    /// Whether more may be lent than the limit allows.
    pub(super) recheck: bool,
}

#[derive(Debug)]
pub(super) struct Takeover {
    until: Instant,
    held: ByPod,
}

/// How this activator shares a function with its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The owner, if it is another activator.
    pub owner: Option<MemberId>,
    /// Slots that the owner has lent to this activator.
    pub leased: u32,
    /// Slots that this activator, as the owner, has lent.
    pub lent: u32,
}

impl Book {
    /// Everybody has said what he holds, or is dead: from now on it is known what is free.
    fn end_takeover(&mut self) {
        self.takeover.take_if(|_| self.ledger.claimed());
    }
}

impl Role {
    /// Of an activator that works alone.
    pub(super) fn alone() -> Self {
        Self::Owner(Book::default())
    }

    /// Of an activator that does not know yet who owns the function.
    pub(super) fn undecided(now: Instant) -> Self {
        Self::Lessee(Leases::new(ByPod::new(), 0, now))
    }

    /// How many requests this activator may have in flight in a pod.
    pub(super) fn room(&self, limit: Limit, pod: &str) -> u32 {
        match (limit.get(), self) {
            (None, _) => u32::MAX,
            (Some(_), Self::Lessee(leases)) => leases.on(pod),
            (Some(limit), Self::Owner(Book { ledger, takeover: None, .. })) => {
                limit.saturating_sub(ledger.lent(pod))
            }
            (Some(_), Self::Owner(Book { takeover: Some(takeover), .. })) => {
                takeover.held.get(pod).copied().unwrap_or(0)
            }
        }
    }

    /// The owner's book; none for others.
    pub(super) fn ledger(&self) -> Option<&Ledger> {
        match self {
            Self::Owner(book) => Some(&book.ledger),
            Self::Lessee(_) => None,
        }
    }

    /// Load of the peers, as far as this activator is the one to know.
    pub(super) fn load(&self) -> Load {
        self.ledger().map(Ledger::load).unwrap_or_default()
    }

    /// Whether more may be in use than is known.
    pub(super) fn is_blind(&self) -> bool {
        self.ledger().is_none_or(|ledger| !ledger.complete())
    }

    /// Whether the owner said that a pod gets no new requests.
    pub(super) fn is_going(&self, pod: &str) -> bool {
        matches!(self, Self::Lessee(leases) if leases.is_going(pod))
    }

    /// The limit has changed: what is not in use is given up, since it may be too much.
    pub(super) fn limit_changed(&mut self, in_use: ByPod, now: Instant) {
        if let Self::Lessee(leases) = self {
            leases.keep_only(in_use, now);
        }
    }

    /// A pod is no more.
    pub(super) fn forget(&mut self, pod: &str) {
        match self {
            Self::Owner(book) => book.ledger.forget(pod),
            Self::Lessee(leases) => leases.give_back(pod, u32::MAX),
        }
    }
}

impl FunctionState {
    /// Finds out who owns the function now, and takes over or hands over.
    pub fn follow(self: &Arc<Self>, now: Instant) {
        let view = self.process.view();
        let mut inner = self.lock();
        match (view.owner(&self.key), &mut inner.role) {
            (Owner::Me, Role::Owner(book)) => {
                book.ledger.attend(&view, now);
                book.end_takeover();
            }
            (Owner::Me, Role::Lessee(_)) => take_over(&mut inner, &view, now),
            (owner, Role::Lessee(leases)) => leases.follow(seat(&view, owner), now),
            (owner, Role::Owner(_)) => {
                let held = in_use(&inner, self.config.load().limit);
                let mut leases = Leases::new(held, inner.claims, now);
                leases.follow(seat(&view, owner), now);
                inner.role = Role::Lessee(leases);
                (inner.last_decision, inner.enough_for) = (None, u32::MAX);
                self.metrics.desired.set(0);
            }
        }
        inner.view = view;
        inner.mail.urgent = true;
        self.settle_and_deliver(inner, now);
    }

    /// What a peer says of the function. Returns pods that it cannot reach, and that should be tried from
    /// here.
    pub fn hear(self: &Arc<Self>, from: &MemberId, word: Word, now: Instant) -> Vec<PodRef> {
        let inner = self.lock();
        match word {
            Word::Up(up) => self.hear_up(inner, from, *up, now),
            Word::Down(down) => {
                self.hear_down(inner, from, &down, now);
                Vec::new()
            }
        }
    }

    fn hear_up(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        from: &MemberId,
        up: Up,
        now: Instant,
    ) -> Vec<PodRef> {
        let Inner { role: Role::Owner(book), pods, window, last_cold, .. } = &mut *inner else {
            return Vec::new();
        };
        keep_latest(last_cold, up.cold_start.as_ref());
        window.arrive_many(up.load.arrivals, now);
        let claimed = up.holds.is_some();
        let returned: Vec<String> = up.returned.keys().cloned().collect();
        let unreachable = book.ledger.hear(from, up, now);
        book.end_takeover();
        let pod = |uid: &String| pods.get(uid)?.pod.clone();
        let to_try = unreachable.iter().filter_map(pod).collect();
        if claimed {
            self.settle_and_deliver(inner, now);
        } else {
            let limit = self.config.load().limit;
            returned.iter().for_each(|uid| set_room(&mut inner, limit, uid));
            let grants = hand_out(&mut inner, &self.config.load(), now);
            self.note_level(&mut inner, now);
            drop(inner);
            self.deliver(grants);
            self.poke();
        }
        to_try
    }

    fn hear_down(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        from: &MemberId,
        down: &Down,
        now: Instant,
    ) {
        let Inner { role: Role::Lessee(leases), pods, mail, .. } = &mut *inner else { return };
        if !leases.hear(from, down, now) {
            return;
        }
        mail.urgent |= down.asks || down.going.is_some();
        // The owner sends requests there already: that it answers need not be found out once more.
        let granted = down.granted.keys();
        for uid in granted.filter(|uid| leases.on(uid) > 0) {
            if let Some(entry) = pods.get_mut(uid).filter(|entry| !entry.set_aside) {
                entry.answers |= entry.pod.is_some();
            }
        }
        if down.going.is_some() {
            for (uid, entry) in pods.iter_mut() {
                entry.retiring = leases.is_going(uid);
            }
        }
        self.settle_and_deliver(inner, now);
    }

    /// The Function's status names its last cold start. Whoever owned it before may have seen that one.
    pub fn remember(&self, cold_start: Option<&ColdStart>) {
        keep_latest(&mut self.lock().last_cold, cold_start);
    }

    /// What has been waited for for too long is no longer waited for.
    pub fn overdue(self: &Arc<Self>, now: Instant) {
        let config = self.config();
        let mut inner = self.lock();
        let held = in_use(&inner, config.limit);
        let Inner { role, pods, .. } = &mut *inner;
        let changed = match role {
            Role::Owner(book) => {
                let expired = book.ledger.expire(config.timeouts.total, now);
                book.takeover.take_if(|takeover| takeover.until <= now).is_some() || expired
            }
            Role::Lessee(leases) => {
                let forsaken = leases.forsaken(now) && *leases.held() != held;
                if forsaken {
                    leases.keep_only(held, now);
                }
                // Leases that came when their pod was gone.
                let unknown = leases.held().iter().filter(|(uid, _)| !pods.contains_key(*uid));
                let unknown: Vec<_> = unknown.map(|(uid, count)| (uid.clone(), *count)).collect();
                unknown.iter().for_each(|(uid, count)| leases.give_back(uid, *count));
                forsaken || !unknown.is_empty()
            }
        };
        if changed {
            self.settle_and_deliver(inner, now);
        }
    }

    /// How this activator shares the function with its peers.
    pub fn share(&self) -> Share {
        let inner = self.lock();
        match &inner.role {
            Role::Owner(book) => Share { lent: book.ledger.lent_in_all(), ..Share::default() },
            Role::Lessee(leases) => {
                Share { owner: leases.owner().cloned(), leased: leases.held().values().sum(), lent: 0 }
            }
        }
    }
}

/// The later one of two cold starts, of which the second may be news.
fn keep_latest(last: &mut Option<ColdStart>, other: Option<&ColdStart>) {
    let time = |cold: &ColdStart| cold.time.0;
    if other.map(time) > last.as_ref().map(time) {
        *last = other.cloned();
    }
}

fn seat(view: &PeerView, owner: Owner) -> Option<(MemberId, u64)> {
    let Owner::Peer(id) = owner else { return None };
    let session = view.peers.get(&id)?.session;
    Some((id, session))
}

/// The function has been another's: what that one knew of its load is not known here.
fn take_over(inner: &mut Inner, view: &PeerView, now: Instant) {
    let Role::Lessee(leases) = &inner.role else { return };
    inner.claims = leases.claim();
    let mut ledger = Ledger::default();
    ledger.attend(view, now);
    let held = leases.held().clone();
    let takeover = (!ledger.is_empty()).then(|| Takeover { until: now + CLAIMS_WITHIN, held });
    inner.window.forget(now);
    inner.role = Role::Owner(Book { ledger, takeover, recheck: false });
}

/// Leases that are needed for what is in flight.
pub(super) fn in_use(inner: &Inner, limit: Limit) -> ByPod {
    if limit.get().is_none() {
        return ByPod::new();
    }
    let pods = inner.pods.iter().filter_map(|(uid, entry)| Some((uid, entry.pod.as_ref()?)));
    let counted = pods.map(|(uid, pod)| (uid.clone(), inner.slots.in_flight_on(pod)));
    counted.filter(|(_, in_flight)| *in_flight > 0).collect()
}
