//! What this activator hears of a function from its peers: who owns it, what they have, what the owner lends.

use std::{
    sync::{Arc, MutexGuard},
    time::Instant,
};

use pilotlight_crds::ColdStart;

use super::{
    FunctionState, Inner, PeerView, Phase, PodRef, Share,
    lending::{hand_out, in_use, set_room},
    role::{Book, Role, Takeover},
};
use crate::peer::{CLAIMS_WITHIN, Down, Leases, Ledger, MemberId, Owner, Up, Word};

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
        let Inner { role: Role::Lessee(leases), pods, mail, cold, .. } = &mut *inner else { return };
        if !leases.hear(from, down, now) {
            return;
        }
        mail.urgent |= down.asks || down.going.is_some();
        // The owner sends requests there already: that it answers need not be found out once more.
        let granted = down.granted.keys();
        for uid in granted.filter(|uid| leases.on(uid) > 0) {
            if let Some(entry) = pods.get_mut(uid).filter(|entry| entry.pod.is_some() && !entry.set_aside) {
                entry.answers = true;
                cold.iter_mut().for_each(|cold| cold.reach(Phase::PortAnswers, now));
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
