//! What this activator tells its peers of a function, and when.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use super::{FunctionState, Inner, Outbox, PodRef, pod::PodEntry, role::Role};
use crate::peer::{Leases, Load, MemberId, Moment, Word};

/// What goes to peers, and when.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// The load that the owner knows.
    told: Load,
    /// Requests that arrived since.
    pub(super) arrivals: u32,
    /// Whether a cold start has ended since.
    pub(super) cold_start: bool,
    /// Whether the owner waits for something else.
    pub(super) urgent: bool,
    /// Whether the function is in the owner's outbox already, for the next beat.
    posted: bool,
}

impl FunctionState {
    /// What there is to tell a peer of the function, with a beat or in between.
    pub fn tell(self: &Arc<Self>, to: &MemberId, beat: bool, now: Instant) -> Option<Word> {
        let mut inner = self.lock();
        let Inner { role, slots, pods, mail, view, last_cold, deleted, .. } = &mut *inner;
        let leases = match role {
            _ if *deleted => return None,
            Role::Owner(book) => return book.ledger.tell(to).map(Word::Down),
            Role::Lessee(leases) => leases,
        };
        let outbox = &view.peers.get(to).filter(|_| leases.owner() == Some(to))?.handle;
        if leases.must_wait(beat) {
            outbox.later(self);
            return None;
        }
        let uids = |wanted: &dyn Fn(&PodEntry) -> bool| -> BTreeSet<String> {
            pods.iter().filter(|(_, entry)| wanted(entry)).map(|(uid, _)| uid.clone()).collect()
        };
        let oldest = slots.oldest();
        let busy = |pod: &PodRef| !leases.going().is_empty() && slots.in_flight_on(pod) > 0;
        let unused = |pod: &PodRef| pod.pulse.is_silent() && !slots.is_open(pod);
        let moment = Moment {
            load: Load { in_flight: slots.in_flight(), held: slots.held(), arrivals: mail.arrivals },
            waited: oldest.map(|since| now.saturating_duration_since(since)).unwrap_or_default(),
            unreachable: uids(&|entry| entry.set_aside || entry.pod.as_ref().is_some_and(unused)),
            busy: uids(&|entry| entry.pod.as_ref().is_some_and(busy)),
            cold_start: last_cold.clone().filter(|_| mail.cold_start),
        };
        *mail = Mail {
            told: moment.load,
            // Who does not answer has not heard it.
            cold_start: mail.cold_start && !leases.answered(),
            ..Mail::default()
        };
        let up = leases.tell(moment);
        // Load that lasts is told with every beat, and a claim is repeated until it is answered.
        if up.holds.is_some() || up.load != Load::default() {
            mail.posted = true;
            outbox.later(self);
        }
        Some(Word::Up(Box::new(up)))
    }

    /// Puts the function into the outboxes of those who have to be told something of it.
    pub(super) fn spread(self: &Arc<Self>, inner: &mut Inner, now: Instant) {
        let Inner { role, slots, mail, view, deleted, .. } = inner;
        match role {
            // Another Function of that name may be there already.
            _ if *deleted => {}
            Role::Owner(book) => {
                for seat in book.ledger.untold().filter_map(|peer| view.peers.get(peer)) {
                    seat.handle.now(self);
                }
            }
            Role::Lessee(leases) => {
                if self.config.load().limit.get().is_some()
                    && let Some(waited) = leases.wait(slots.held(), now)
                {
                    self.metrics.lease_wait.observe(waited.as_secs_f64());
                }
                let Some(seat) = leases.owner().and_then(|owner| view.peers.get(owner)) else { return };
                mail.post(self, &seat.handle, leases, (slots.in_flight(), slots.held()));
            }
        }
    }
}

impl Mail {
    /// At once: what the owner waits for, and what waits for the owner. With the next beat: other load.
    fn post(
        &mut self,
        function: &Arc<FunctionState>,
        outbox: &Outbox,
        leases: &Leases,
        (in_flight, held): (u32, u32),
    ) {
        if self.urgent || leases.is_due() || held != self.told.held {
            outbox.now(function);
        } else if !self.posted && (self.arrivals > 0 || self.cold_start || in_flight != self.told.in_flight) {
            self.posted = true;
            outbox.later(function);
        }
    }
}
