//! What the processes need to know of a pod, read out of the Kubernetes object once.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::{
    FunctionKey, PodTrouble,
    key::function_of,
    names::{PORT_NAME, REVISION_LABEL},
    pod_trouble,
};

/// A pod of a Function as a watch shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedPod {
    /// The Function that it belongs to.
    pub function: FunctionKey,
    /// The revision that it runs.
    pub revision: String,
    /// Its name.
    pub name: String,
    /// Its uid: unlike an address, never given twice.
    pub uid: String,
    /// Whether a node was chosen.
    pub scheduled: bool,
    /// When it was created, to the second.
    pub created: Option<Timestamp>,
    /// Its address, once the kubelet has reported one.
    pub address: Option<IpAddr>,
    /// Whether that is its node's, which other pods may have too.
    pub node_network: bool,
    /// The port that its first container serves, which may differ from the spec's during a rollout.
    pub port: Option<u16>,
    /// Whether it was told to end, or has ended.
    pub ending: bool,
    /// Why it does not start.
    pub trouble: Option<PodTrouble>,
}

impl ObservedPod {
    /// Reads a pod; `None` if it is not a Function's.
    pub fn read(pod: &Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        Some(Self {
            function: function_of(metadata.namespace.as_deref(), metadata.labels.as_ref())?,
            revision: metadata.labels.as_ref()?.get(REVISION_LABEL)?.clone(),
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            scheduled: pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            node_network: pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false),
            address: status.and_then(|status| status.pod_ip.as_deref()).and_then(|ip| ip.parse().ok()),
            port: pod.spec.as_ref().and_then(served_port),
            ending: metadata.deletion_timestamp.is_some() || matches!(phase, Some("Failed" | "Succeeded")),
            trouble: pod_trouble(pod),
        })
    }
}

fn served_port(spec: &PodSpec) -> Option<u16> {
    let ports = spec.containers.first()?.ports.as_ref()?;
    let port = ports.iter().find(|port| port.name.as_deref() == Some(PORT_NAME))?;
    u16::try_from(port.container_port).ok()
}
