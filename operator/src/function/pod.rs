//! A Function's pod, as far as it counts here.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use pilotlight_crds::{ObservedPod, PodTrouble};

/// What counts of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodView {
    pub revision: String,
    pub trouble: Option<PodTrouble>,
    /// Since when the kubelet calls it ready.
    pub ready_since: Option<Timestamp>,
}

impl PodView {
    /// Reads a pod; `None` if it is not a Function's, or ends.
    pub(crate) fn read(pod: &Pod) -> Option<Self> {
        let seen = ObservedPod::read(pod).filter(|pod| !pod.ending)?;
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().find(|c| c.type_ == "Ready" && c.status == "True");
        Some(Self {
            revision: seen.revision,
            trouble: seen.trouble,
            ready_since: ready
                .and_then(|condition| condition.last_transition_time.as_ref())
                .map(|time| time.0),
        })
    }
}
