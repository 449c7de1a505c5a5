//! A pod: what is known of it, and once it can be called, its address, its connections, and whether it answers.

use std::{
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};

use pilotlight_crds::ObservedPod;
use tokio_util::sync::CancellationToken;

use crate::proxy::Pool;

/// A pod with an address.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid: the identity of a pod, unlike its address.
    pub uid: String,
    /// The revision that it runs.
    pub revision: String,
    /// Where it serves.
    pub address: SocketAddr,
    /// Open connections that no request uses.
    pub pool: Pool,
    /// Whether it answers.
    pub pulse: Pulse,
    /// Cancelled when the pod has ended: probing stops.
    pub gone: CancellationToken,
}

/// Whether a pod answers what it is asked. Read and noted with each request, so without a lock.
#[derive(Debug, Default)]
pub struct Pulse {
    answers: AtomicU32,
    silent: AtomicBool,
}

impl Pulse {
    /// A number that changes with each answer.
    pub fn answers(&self) -> u32 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Whether it has left a request unanswered, and has not answered any since.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// It has answered. Whether it was silent before.
    pub(super) fn beat(&self) -> bool {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.is_silent()
    }

    /// Changes whether it is silent. Returns what it was.
    pub(super) fn set_silent(&self, silent: bool) -> bool {
        self.silent.swap(silent, Ordering::Relaxed)
    }
}

impl Pod {
    /// The pod has ended, is ending, or its address has gone to another: it is not called again.
    pub(super) fn end(&self) {
        self.gone.cancel();
        self.pool.clear();
    }

    /// Whether it must not be called again.
    pub fn has_ended(&self) -> bool {
        self.gone.is_cancelled()
    }
}

/// A shared pod, equal only to itself.
#[derive(Clone, Debug)]
pub struct PodRef(Arc<Pod>);

impl PodRef {
    /// Shares a pod.
    pub fn new(pod: Pod) -> Self {
        Self(Arc::new(pod))
    }
}

impl Deref for PodRef {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.0
    }
}

impl PartialEq for PodRef {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What is known of a pod.
#[derive(Debug)]
pub(super) struct PodEntry {
    /// What the watch says.
    pub(super) observed: ObservedPod,
    /// Set once the address is known.
    pub(super) pod: Option<PodRef>,
    /// Whether it answers on its port.
    pub(super) answers: bool,
    /// Whether it refused a connection and has not answered since.
    pub(super) set_aside: bool,
    /// Whether it takes no new requests because it is to go.
    pub(super) retiring: bool,
    pub(super) in_trouble_since: Option<Instant>,
}

impl PodEntry {
    pub(super) fn revision(&self) -> &str {
        &self.observed.revision
    }

    /// Whether it is about to end, or has.
    pub(super) fn ends(&self) -> bool {
        self.observed.ending
    }

    pub(super) fn live(&self, revision: &str) -> bool {
        !self.observed.ending && self.observed.revision == revision
    }
}
