//! Where free slots go: to requests that are held here, to peers, or back to the owner.

use std::{collections::BTreeMap, collections::BTreeSet, time::Instant};

use super::{
    FunctionConfig, Inner, PodRef, Waiter,
    pod::PodEntry,
    role::{Book, Role},
};
use crate::{
    peer::{ByPod, Ledger, MemberId, comes_before},
    slots::{Grant, Limit, Slots},
};

/// The most leases that are lent beyond what is asked for, at once.
const SPARE: u32 = 256;

/// The room in a pod is what the role says.
pub(super) fn set_room(inner: &mut Inner, limit: Limit, uid: &str) {
    let Some(pod) = inner.pods.get(uid).and_then(|entry| entry.pod.as_ref()) else { return };
    inner.slots.set_room(pod, inner.role.room(limit, uid));
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

/// A request has left a pod: if others wait for its lease, or the pod is not used any longer, the lease goes
/// back.
pub(super) fn after_release(inner: &mut Inner, limit: Limit, pod: &PodRef) {
    let Inner { role: Role::Lessee(leases), slots, mail, .. } = inner else { return };
    let in_flight = slots.in_flight_on(pod);
    mail.urgent |= in_flight == 0 && leases.is_going(&pod.uid);
    if limit.get().is_some() && leases.on(&pod.uid) > in_flight && (leases.owed() > 0 || !slots.is_open(pod))
    {
        leases.give_back(&pod.uid, 1);
        slots.set_room(pod, leases.on(&pod.uid));
    }
}

/// After pods were opened and closed: the owner tells which of them are to go.
pub(super) fn announce(inner: &mut Inner, config: &FunctionConfig, in_use: Option<&str>) {
    let Inner { role: Role::Owner(book), pods, .. } = inner else { return };
    if !book.ledger.is_empty() {
        book.ledger.set_going(going(pods, config, in_use));
        book.recheck = true;
    }
}

/// Gives back as many idle leases as others wait for, and all in pods that are not used.
pub(super) fn give_back_idle(inner: &mut Inner) {
    let Inner { role: Role::Lessee(leases), slots, pods, .. } = inner else { return };
    let held: Vec<(String, u32)> = leases.held().iter().map(|(uid, held)| (uid.clone(), *held)).collect();
    for (uid, held) in held {
        let pod = pods.get(&uid).and_then(|entry| entry.pod.as_ref());
        let idle = held.saturating_sub(pod.map_or(0, |pod| slots.in_flight_on(pod)));
        // A pod that the watch has not shown yet will be used.
        let unused = pod.is_some_and(|pod| !slots.is_open(pod));
        leases.give_back(&uid, if unused { idle } else { idle.min(leases.owed()) });
        if let Some(pod) = pod {
            slots.set_room(pod, leases.on(&uid));
        }
    }
}

/// Hands out what is free: to the oldest request, wherever it waits; to one that waits here, if it has waited
/// for about as long.
pub(super) fn hand_out(
    inner: &mut Inner,
    config: &FunctionConfig,
    now: Instant,
) -> Vec<Grant<Waiter, PodRef>> {
    let Inner { role, slots, .. } = inner;
    let mut grants = Vec::new();
    let ledger = match role {
        Role::Owner(Book { ledger, takeover: None, .. })
            if config.limit.get().is_some() && !ledger.is_empty() =>
        {
            ledger
        }
        _ => {
            grants.extend(std::iter::from_fn(|| slots.next_by(now, preferred)));
            return grants;
        }
    };
    loop {
        let own = slots.oldest();
        let hungry = ledger.hungry();
        let mut first =
            hungry.iter().filter(|(since, _)| own.is_none_or(|own| comes_before(*since, own, now)));
        if first.any(|(_, peer)| lend(slots, ledger, peer)) {
            continue;
        }
        match slots.next_by(now, preferred) {
            Some(grant) => grants.push(grant),
            None => break,
        }
    }
    ask_back(inner, config, now);
    grants
}

/// Asks peers for leases that somebody waits for, here or at another peer.
pub(super) fn ask_back(inner: &mut Inner, config: &FunctionConfig, now: Instant) {
    let Inner { role: Role::Owner(book), slots, .. } = inner else { return };
    let Some(limit) = config.limit.get().filter(|_| book.takeover.is_none()) else { return };
    let own = slots.oldest().map(|since| (slots.held(), since));
    if own.is_some() || book.ledger.stirs() || std::mem::take(&mut book.recheck) {
        book.ledger.recall(limit, own, now);
    }
}

fn preferred(waiter: &Waiter) -> Option<&PodRef> {
    waiter.preferred.as_ref()
}

/// Lends a peer one slot that it can use; and, when it has as many as it asked for, a share of what is free, so
/// that it need not ask again while the limit does not bind.
fn lend(slots: &mut Slots<Waiter, PodRef>, ledger: &mut Ledger, peer: &MemberId) -> bool {
    if !lend_one(slots, ledger, peer) {
        return false;
    }
    let wanted = ledger.want(peer) > 0 || !ledger.hungry().is_empty() || slots.held() > 0;
    let spare = if wanted { 0 } else { (slots.free() / (ledger.members() + 1)).min(SPARE) };
    let _ = (0..spare).all(|_| lend_one(slots, ledger, peer));
    true
}

fn lend_one(slots: &mut Slots<Waiter, PodRef>, ledger: &mut Ledger, peer: &MemberId) -> bool {
    let pod = slots.lend(|pod| ledger.reaches(peer, &pod.uid));
    if let Some(pod) = &pod {
        ledger.lend(peer, &pod.uid);
    }
    pod.is_some()
}

/// The pods that nobody may send new requests to: those that retire, and those of revisions that serve no
/// longer.
fn going(
    pods: &BTreeMap<String, PodEntry>,
    config: &FunctionConfig,
    in_use: Option<&str>,
) -> BTreeSet<String> {
    let kept = [config.serving.as_deref(), config.latest.as_deref(), in_use];
    let goes = |entry: &PodEntry| entry.retiring || !kept.contains(&Some(entry.revision()));
    pods.iter().filter(|(_, entry)| entry.pod.is_some() && goes(entry)).map(|(uid, _)| uid.clone()).collect()
}
