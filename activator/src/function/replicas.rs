//! The pods and Deployments of a function: which pods take requests, which may go, what is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use pilotlight_crds::{FunctionKey, ObservedPod, PodTrouble};
use tokio_util::sync::CancellationToken;

use super::{
    ColdStart, FunctionConfig, FunctionState, HoldError, Inner, Phase, Pod, PodRef, Pulse, Waiter,
    health::set_aside,
    lending::{announce, give_back_idle, hand_out},
    pod::PodEntry,
};
use crate::{
    autoscaler::{Decision, Seen},
    proxy::Pool,
    slots::Grant,
};

/// How long a pod may be in trouble, and a request may wait for it, before the request is answered
/// with the reason. Some troubles pass by themselves, such as a first failed pull.
const PATIENCE: Duration = Duration::from_secs(5);

/// A Deployment of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedDeployment {
    /// The Function that it belongs to.
    pub function: FunctionKey,
    /// The revision that it runs.
    pub revision: String,
    /// Replicas asked for.
    pub replicas: u32,
    /// Its version (`resourceVersion`).
    pub version: String,
    /// Why its pods cannot even be created.
    pub trouble: Option<PodTrouble>,
}

/// What the autoscaler works on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// What the decision depends on.
    pub seen: Seen,
    /// Whether this activator is the one to decide. Nobody is once the Function is deleted.
    pub owned: bool,
    /// Replicas asked for, by revision.
    pub replicas: BTreeMap<String, u32>,
    /// Version of the serving revision's Deployment as it was seen last.
    pub version: Option<String>,
    /// Revisions other than the serving one that still have requests in flight.
    pub busy_revisions: BTreeSet<String>,
}

impl FunctionState {
    /// What a watch says of a pod. Returns the pod if it now has to be probed.
    pub fn apply_pod(self: &Arc<Self>, observed: ObservedPod, now: Instant) -> Option<PodRef> {
        let config = self.config();
        let mut inner = self.lock();
        note_phases(&mut inner, &observed, now);
        let known = inner.pods.remove(&observed.uid);
        let mut entry = known.unwrap_or_else(|| PodEntry {
            observed: observed.clone(),
            pod: None,
            answers: false,
            set_aside: false,
            retiring: inner.role.is_going(&observed.uid),
            in_trouble_since: None,
        });
        entry.in_trouble_since = observed.trouble.as_ref().map(|_| entry.in_trouble_since.unwrap_or(now));
        let moved = |pod: &PodRef| observed.address.is_some_and(|address| address != pod.address.ip());
        if let Some(pod) = entry.pod.take_if(|pod| moved(pod)) {
            pod.end();
            inner.slots.close(&pod);
            entry.answers = false;
        }
        let fresh = entry.pod.is_none() && !observed.ending;
        let to_probe = observed.address.filter(|_| fresh).map(|address| {
            PodRef::new(Pod {
                name: observed.name.clone(),
                uid: observed.uid.clone(),
                revision: observed.revision.clone(),
                address: SocketAddr::new(address, observed.port.unwrap_or(config.port)),
                pool: Pool::new(Arc::clone(self.process.memory())),
                pulse: Pulse::default(),
                gone: CancellationToken::new(),
            })
        });
        entry.pod = to_probe.clone().or(entry.pod);
        if observed.ending
            && let Some(pod) = &entry.pod
        {
            pod.end();
        }
        entry.observed = observed;
        inner.pods.insert(entry.observed.uid.clone(), entry);
        self.settle_and_deliver(inner, now);
        to_probe
    }

    /// A pod is no more.
    pub fn delete_pod(self: &Arc<Self>, uid: &str, now: Instant) {
        let mut inner = self.lock();
        inner.role.forget(uid);
        if let Some(PodEntry { pod: Some(pod), .. }) = inner.pods.remove(uid) {
            pod.end();
            inner.slots.close(&pod);
        }
        self.settle_and_deliver(inner, now);
    }

    /// What a watch says of a revision's Deployment.
    pub fn apply_deployment(self: &Arc<Self>, seen: &ObservedDeployment, now: Instant) {
        {
            let mut inner = self.lock();
            inner.replicas.insert(seen.revision.clone(), seen.replicas);
            inner.versions.insert(seen.revision.clone(), seen.version.clone());
            if let Some(cold) = inner.cold.as_mut().filter(|_| seen.replicas > 0) {
                // Whoever ordered it.
                cold.reach(Phase::Scaled, now);
            }
            let before = inner.refused.remove(&seen.revision);
            if let Some(trouble) = seen.trouble.clone() {
                let since = before.map_or(now, |(_, since)| since);
                inner.refused.insert(seen.revision.clone(), (trouble, since));
            }
            self.note_growth(&mut inner, now);
        }
        self.poke();
    }

    /// A revision's Deployment is no more.
    pub fn delete_deployment(self: &Arc<Self>, revision: &str) {
        {
            let mut inner = self.lock();
            inner.replicas.remove(revision);
            inner.versions.remove(revision);
            inner.refused.remove(revision);
        }
        self.poke();
    }

    /// The API server accepted, or refused, an order to scale; `None`: somebody else was quicker.
    pub fn scaled(self: &Arc<Self>, revision: &str, outcome: Result<Option<u32>, String>, now: Instant) {
        {
            let mut inner = self.lock();
            match outcome {
                Ok(None) => {}
                Ok(Some(replicas)) => {
                    inner.replicas.insert(revision.to_owned(), replicas);
                    inner.scale_error = None;
                    if let Some(cold) = inner.cold.as_mut() {
                        cold.reach(Phase::Scaled, now);
                    }
                }
                Err(error) => inner.scale_error = Some(error),
            }
            self.note_growth(&mut inner, now);
        }
        self.poke();
    }

    /// What the autoscaler needs to decide.
    pub fn observe(&self, now: Instant) -> Observed {
        let config = self.config();
        let mut inner = self.lock();
        let policy = &config.policy;
        let recent = policy.window / 10;
        let serving = config.serving.as_deref().unwrap_or_default();
        let elsewhere = inner.role.load();
        let seen = Seen {
            replicas: inner.replicas.get(serving).copied().unwrap_or(0),
            ready: inner.slots.open_pods() as u32,
            in_flight: inner.slots.in_flight().saturating_add(elsewhere.in_flight),
            held: inner.slots.held().saturating_add(elsewhere.held),
            average: inner.window.average_level(policy.window, now),
            recent_peak: inner.window.peak_level(recent, now),
            rate: inner.window.arrivals_per_second(policy.window, now),
            recent_rate: inner.window.arrivals_per_second(recent, now),
            quiet: inner.window.quiet_for(now),
            known: inner.window.known_for(now),
            blind: self.process.leaving() || inner.role.is_blind(),
        };
        let busy = |entry: &&PodEntry| {
            entry.revision() != serving && entry.pod.as_ref().is_some_and(|pod| inner.is_busy(pod))
        };
        let busy_revisions =
            inner.pods.values().filter(busy).map(|entry| entry.observed.revision.clone()).collect();
        let version = inner.versions.get(serving).cloned();
        let owned = inner.role.ledger().is_some() && !inner.deleted;
        Observed { seen, owned, replicas: inner.replicas.clone(), version, busy_revisions }
    }

    /// Remembers a decision; whether it differs from the last one.
    pub fn decided(&self, decision: Decision) -> bool {
        let config = self.config.load();
        let mut inner = self.lock();
        inner.enough_for = config.policy.carries(decision.replicas).unwrap_or(u32::MAX);
        let same =
            |(last, _): &(Decision, _)| (last.replicas, last.reason) == (decision.replicas, decision.reason);
        let changed = !inner.last_decision.as_ref().is_some_and(same);
        if changed {
            inner.last_decision = Some((decision, jiff::Timestamp::now()));
        }
        changed
    }

    /// Answers those who have waited for long enough for pods that cannot start.
    pub fn give_up_on_trouble(self: &Arc<Self>, now: Instant) {
        let config = self.config.load();
        let (waiters, trouble) = {
            let mut inner = self.lock();
            let lasting = lasting_trouble(&inner, &config, now);
            let waited = inner.window.busy_for(now);
            let Some(trouble) = lasting.filter(|_| inner.slots.open_pods() == 0 && waited >= PATIENCE) else {
                return;
            };
            inner.cold = None;
            let waiters: Vec<Waiter> = inner.slots.dismiss();
            self.note_level(&mut inner, now);
            (waiters, trouble)
        };
        let PodTrouble { reason, message } = trouble;
        self.dismiss(waiters, &HoldError::CannotStart { reason, message });
    }

    /// Why there is no slot, as far as it is known.
    pub(super) fn why_no_slot(&self) -> Option<String> {
        let (config, inner) = (self.config.load(), self.lock());
        let trouble = troubles(&inner, &config).next();
        let trouble = trouble.map(|(trouble, _)| format!("{}: {}", trouble.reason, trouble.message));
        trouble.or_else(|| inner.scale_error.as_ref().map(|error| format!("cannot scale: {error}")))
    }

    /// Tells the queue whether more pods are on their way.
    fn note_growth(&self, inner: &mut Inner, now: Instant) {
        let config = self.config.load();
        let wanted = config.serving.as_ref().and_then(|serving| inner.replicas.get(serving));
        let (wanted, ready) = (wanted.copied().unwrap_or(0), inner.slots.open_pods() as u32);
        let until = inner.growth.note(wanted, ready, config.hold_timeout, now);
        inner.slots.expect_help(until);
    }

    pub(super) fn settle_and_deliver(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, now: Instant) {
        let grants = self.settle(&mut inner, now);
        drop(inner);
        self.deliver(grants);
        self.poke();
    }

    /// Opens and closes pods so that just those take requests that should.
    pub(super) fn settle(self: &Arc<Self>, inner: &mut Inner, now: Instant) -> Vec<Grant<Waiter, PodRef>> {
        let config = self.config.load();
        let revision = revision_in_use(inner, &config).map(str::to_owned);
        let Inner { pods, slots, role, .. } = inner;
        for entry in pods.values() {
            let Some(pod) = &entry.pod else { continue };
            let usable = entry.answers
                && !entry.retiring
                && !pod.has_ended()
                && revision.as_deref().is_some_and(|r| entry.live(r));
            if usable {
                slots.open(pod.clone(), role.room(config.limit, &pod.uid));
                slots.set_silent(pod, pod.pulse.is_silent());
            } else {
                slots.close(pod);
            }
        }
        announce(inner, &config, revision.as_deref());
        let grants = hand_out(inner, &config, now);
        give_back_idle(inner);
        self.note_growth(inner, now);
        self.note_level(inner, now);
        self.metrics.ready.set(inner.slots.open_pods() as i64);
        self.metrics.set_aside.set(i64::from(set_aside(inner)));
        grants
    }
}

/// The serving revision; as long as none of its pods answers, the one that served before.
fn revision_in_use<'a>(inner: &'a Inner, config: &'a FunctionConfig) -> Option<&'a str> {
    let answers = |revision: &str| inner.pods.values().any(|entry| entry.answers && entry.live(revision));
    let serving = config.serving.as_deref();
    let previous = inner.previous.as_deref().filter(|previous| answers(previous));
    match serving {
        Some(serving) if answers(serving) => Some(serving),
        serving => previous.or(serving),
    }
}

/// What is wrong with the revision that requests wait for, and since when. The trouble of a new revision that
/// is only being tried is nothing to them.
fn troubles<'a>(
    inner: &'a Inner,
    config: &'a FunctionConfig,
) -> impl Iterator<Item = (&'a PodTrouble, Instant)> {
    let serving = config.serving.as_deref().unwrap_or_default();
    let of_pods = inner
        .pods
        .values()
        .filter(move |entry| entry.live(serving))
        .filter_map(|entry| Some((entry.observed.trouble.as_ref()?, entry.in_trouble_since?)));
    of_pods.chain(inner.refused.get(serving).map(|(trouble, since)| (trouble, *since)))
}

fn lasting_trouble(inner: &Inner, config: &FunctionConfig, now: Instant) -> Option<PodTrouble> {
    let lasting = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
    troubles(inner, config).find(|(_, since)| lasting(*since)).map(|(trouble, _)| trouble.clone())
}

fn note_phases(inner: &mut Inner, observed: &ObservedPod, now: Instant) {
    let new = !inner.pods.contains_key(&observed.uid);
    let Some(cold) = inner.cold.as_mut().filter(|cold| is_of(cold, observed)) else { return };
    // Pods that existed before belong to an earlier start, unless nothing of this one is known yet.
    if new {
        cold.reach(Phase::PodCreated, now);
    }
    if observed.scheduled {
        cold.reach(Phase::Scheduled, now);
    }
    if observed.address.is_some() {
        cold.reach(Phase::AddressKnown, now);
    }
}

fn is_of(cold: &ColdStart, observed: &ObservedPod) -> bool {
    !observed.ending && cold.revision == observed.revision
}
