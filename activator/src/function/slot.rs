//! Guards: a slot is given back, and a held request leaves the queue, whatever happens to its caller.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{FunctionState, PodRef};
use crate::slots::Ticket;

/// What a request brings when it wants a slot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// Bytes of it that are in memory while it waits.
    pub bytes: u64,
    /// Uid of the pod that it would best go to.
    pub pod: Option<&'a str>,
    /// Until when it may wait, if it has waited before: then it is no new arrival either.
    pub until: Option<Instant>,
}

/// Room for one request in a pod. Dropping it gives the slot to the held request whose turn it is.
#[derive(Debug)]
pub struct Slot {
    function: Arc<FunctionState>,
    pod: PodRef,
}

impl Slot {
    pub(super) fn new(function: Arc<FunctionState>, pod: PodRef) -> Self {
        Self { function, pod }
    }

    /// The function whose slot it is.
    pub fn function(&self) -> &Arc<FunctionState> {
        &self.function
    }

    /// The pod that the slot is in.
    pub fn pod(&self) -> &PodRef {
        &self.pod
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.function.release(&self.pod);
    }
}

/// A slot, and what it took to get it.
#[derive(Debug)]
pub struct Acquired {
    /// The slot.
    pub slot: Slot,
    /// How long the request was held; `None` if it was not.
    pub held: Option<Duration>,
    /// Whether the hold began with no ready pod.
    pub cold: bool,
}

/// Why there is no slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// As many requests wait as may.
    #[error("as many requests wait for this function as may (hold.requests)")]
    TooManyRequests,
    /// As many bytes wait as may.
    #[error("as many bytes of requests wait for this function as may (hold.bytes)")]
    TooManyBytes,
    /// As many requests or bytes wait in this process as may, or of this function as the others leave it.
    #[error(
        "as many requests wait in this activator as may, or as its memory or this function's share allows"
    )]
    ProcessFull,
    /// The function is asked for more than it can serve for good, and newer requests go first.
    #[error("the function is asked for more than it can serve, and this request has waited too long already")]
    Overloaded,
    /// The time to wait is over.
    #[error("no slot became free in {waited:?}{}", .why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Timeout {
        /// How long the request waited.
        waited: Duration,
        /// What is known of the reason.
        why: Option<String>,
    },
    /// No pod can start.
    #[error("the function cannot start: {reason}: {message}")]
    CannotStart {
        /// The kubelet's or the scheduler's reason.
        reason: String,
        /// What it adds.
        message: String,
    },
    /// The process ends.
    #[error("this activator ends, and there was no slot until now")]
    Leaving,
    /// The Function was deleted.
    #[error("the function was deleted while the request waited")]
    Deleted,
}

/// A request that is held.
#[derive(Debug)]
pub(super) struct Held<'a> {
    pub(super) guard: HeldGuard<'a>,
    /// Gets the slot, or says why there is none.
    pub(super) receiver: oneshot::Receiver<Result<Slot, HoldError>>,
    /// Whether the hold began with no ready pod.
    pub(super) cold: bool,
}

/// A place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct HeldGuard<'a> {
    pub(super) function: &'a Arc<FunctionState>,
    pub(super) ticket: Ticket,
    pub(super) bytes: u64,
}

impl Drop for HeldGuard<'_> {
    fn drop(&mut self) {
        self.function.leave(self.ticket);
        self.function.process.leave(self.bytes);
    }
}
