//! Which pods go when there are more than are wanted: idle ones, once nobody sends them anything.

use std::{sync::Arc, time::Instant};

use super::{FunctionState, Inner, PodRef, pod::PodEntry};

/// Pods that may go now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaleDown {
    /// Replicas that remain.
    pub replicas: u32,
    /// Names of idle pods to delete first.
    pub first: Vec<String>,
}

impl Inner {
    /// Whether a pod has requests in flight, here or, as far as is known, elsewhere.
    pub(super) fn is_busy(&self, pod: &PodRef) -> bool {
        self.slots.in_flight_on(pod) > 0 || self.role.ledger().is_some_and(|ledger| ledger.busy(&pod.uid))
    }
}

impl FunctionState {
    /// Closes the pods that have to go for `wanted` replicas to remain, idle ones first, and reopens
    /// those that need not. Returns how far the replicas can be lowered now: a pod with a request in
    /// flight is waited for.
    pub fn retire(self: &Arc<Self>, wanted: u32, now: Instant) -> Option<ScaleDown> {
        let config = self.config();
        let serving = config.serving.as_deref()?;
        let mut inner = self.lock();
        let replicas = inner.replicas.get(serving).copied()?;
        let live = inner.pods.values().filter(|entry| entry.live(serving));
        let (answering, others): (Vec<_>, Vec<_>) = live.partition(|entry| entry.answers);
        // Pods that are more than the replicas are about to be deleted, and stay closed until they are.
        let there = replicas.max((answering.len() + others.len()) as u32);
        let surplus = there.saturating_sub(wanted);
        // A ReplicaSet deletes pods that are not ready before all others, whatever they cost.
        let starting = (there - answering.len() as u32).min(surplus);
        let (going, changed) = retiring_pods(&mut inner, serving, (surplus - starting) as usize);
        let idle: Vec<_> = going.iter().filter(|pod| !inner.is_busy(pod)).collect();
        let left = there - starting - idle.len() as u32;
        let first = idle.iter().map(|pod| pod.name.clone()).collect();
        if changed {
            self.settle_and_deliver(inner, now);
        }
        (left < replicas).then_some(ScaleDown { replicas: left, first })
    }
}

/// Marks `count` answering pods as retiring, the idlest first, and unmarks the others. Returns them, and
/// whether they are others than before.
fn retiring_pods(inner: &mut Inner, revision: &str, count: usize) -> (Vec<PodRef>, bool) {
    let answering = |entry: &&PodEntry| entry.answers && entry.live(revision);
    let mut candidates: Vec<_> = inner
        .pods
        .values()
        .filter(answering)
        .filter_map(|entry| Some((entry.pod.clone()?, entry.retiring)))
        .map(|(pod, retiring)| {
            let elsewhere = inner.role.ledger().is_some_and(|ledger| ledger.known_busy(&pod.uid));
            (inner.slots.in_flight_on(&pod) + u32::from(elsewhere), !retiring, pod)
        })
        .collect();
    // Of pods with equally much in flight, those that retire already go on retiring.
    candidates.sort_by_key(|(in_flight, stays, _)| (*in_flight, *stays));
    let going: Vec<PodRef> = candidates.into_iter().take(count).map(|(_, _, pod)| pod).collect();
    let mut changed = false;
    // What is about to end stays closed: others may not know yet that it does.
    for entry in inner.pods.values_mut().filter(|entry| !entry.ends()) {
        let goes = entry.pod.as_ref().is_some_and(|pod| going.contains(pod));
        changed |= entry.retiring != goes;
        entry.retiring = goes;
    }
    (going, changed)
}
