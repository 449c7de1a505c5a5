//! What there is to say of a function, for its status and for debugging.

use std::collections::BTreeMap;

use super::{FunctionState, health::set_aside};
use crate::autoscaler::Decision;

/// What there is to say of a function.
#[derive(Clone, Debug)]
pub struct Report {
    /// The last decision, and when it was made.
    pub decision: Option<(Decision, jiff::Timestamp)>,
    /// Pods that take requests.
    pub ready: u32,
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests held.
    pub held: u32,
    /// Pods that refused a connection or are silent, and are asked whether they are back.
    pub set_aside: u32,
    /// Replicas asked for, by revision.
    pub replicas: BTreeMap<String, u32>,
    /// The last cold start that ended.
    pub cold_start: Option<pilotlight_crds::ColdStart>,
}

impl FunctionState {
    /// What there is to say now.
    pub fn report(&self) -> Report {
        let inner = self.lock();
        Report {
            decision: inner.last_decision.filter(|_| inner.role.ledger().is_some()),
            ready: inner.slots.open_pods() as u32,
            in_flight: inner.slots.in_flight(),
            held: inner.slots.held(),
            set_aside: set_aside(&inner),
            replicas: inner.replicas.clone(),
            cold_start: inner.last_cold.clone(),
        }
    }
}
