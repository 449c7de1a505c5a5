//! Whether pods answer, as probes, connections and requests find out.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{FunctionState, Inner, Phase, PodRef, pod::PodEntry};

impl FunctionState {
    /// A pod answers on its port.
    pub fn pod_answers(self: &Arc<Self>, pod: &PodRef, now: Instant) {
        let mut inner = self.lock();
        if let Some(cold) = inner.cold.as_mut() {
            cold.reach(Phase::PortAnswers, now);
        }
        if let Some(entry) = inner.pods.get_mut(&pod.uid) {
            (entry.answers, entry.set_aside) = (true, false);
            pod.pulse.set_silent(false);
        }
        self.settle_and_deliver(inner, now);
    }

    /// A pod refused a connection: it is set aside. Returns whether it must be probed again.
    pub fn pod_refused(self: &Arc<Self>, pod: &PodRef, now: Instant) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.pods.get_mut(&pod.uid) else { return false };
        let answered = std::mem::replace(&mut entry.answers, false);
        entry.set_aside = true;
        let probe = answered && !pod.pulse.is_silent() && !pod.has_ended();
        inner.mail.urgent = true;
        self.settle_and_deliver(inner, now);
        probe
    }

    /// A pod took a request and left it, and all others meanwhile, without an answer: it is used only if all are
    /// so. Returns whether it must be probed.
    pub fn pod_silent(self: &Arc<Self>, pod: &PodRef, now: Instant) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.pods.get_mut(&pod.uid).filter(|entry| entry.pod.as_ref() == Some(pod)) else {
            return false;
        };
        let probe = !pod.pulse.set_silent(true) && entry.answers && !pod.has_ended();
        inner.mail.urgent = true;
        self.settle_and_deliver(inner, now);
        probe
    }

    /// Whether new requests may go to a pod.
    pub fn uses(&self, pod: &PodRef) -> bool {
        self.lock().slots.is_open(pod)
    }

    /// The head of a response has come from `pod`: it is not silent, and if that ends a cold start, it is
    /// recorded.
    pub fn first_byte(self: &Arc<Self>, pod: &PodRef, now: Instant) {
        if pod.pulse.beat() {
            self.pod_answers(pod, now);
        }
        if !self.warming.load(Ordering::Relaxed) {
            return;
        }
        let ended = {
            let mut inner = self.lock();
            self.warming.store(false, Ordering::Relaxed);
            let Some(mut cold) = inner.cold.take() else { return };
            cold.reach(Phase::FirstByte, now);
            cold.pod = Some(pod.name.clone());
            inner.last_cold = Some(cold.ended());
            inner.mail.cold_start = true;
            cold
        };
        self.metrics.cold_start(&ended);
    }
}

/// Pods that refused a connection or are silent.
pub(super) fn set_aside(inner: &Inner) -> u32 {
    let silent = |entry: &PodEntry| entry.pod.as_ref().is_some_and(|pod| pod.pulse.is_silent());
    inner.pods.values().filter(|entry| entry.set_aside || silent(entry)).count() as u32
}
