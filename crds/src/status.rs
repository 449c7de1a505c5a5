//! What Pilotlight says of a Function.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Types of the conditions in [`FunctionStatus::conditions`].
pub mod condition {
    /// The Function can be called, and nothing known stands in its way: `Routable` and `Healthy`.
    pub const READY: &str = "Ready";
    /// The spec is valid and the activator has all it needs to answer on the Function's URL.
    pub const ROUTABLE: &str = "Routable";
    /// No pod of the latest revision fails to start. A Function without pods is healthy.
    pub const HEALTHY: &str = "Healthy";
}

/// Reasons of the conditions that we give ourselves. `Healthy=False` also passes on the kubelet's, the
/// scheduler's and the ReplicaSet's own reasons (`ErrImagePull`, `CrashLoopBackOff`, `Unschedulable`,
/// `FailedCreate`, ...).
pub mod reason {
    /// `Ready=True`.
    pub const READY: &str = "Ready";
    /// `Routable=True`: the children exist; calls are answered, from zero if need be.
    pub const ROUTABLE: &str = "Routable";
    /// `Routable=False`: the spec breaks a rule that the API server could not check; the message says which.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// `Routable=False`: the API server refused a child, such as for a quota or an admission policy.
    pub const CHILD_REFUSED: &str = "ChildRefused";
    /// `Routable=False`: no activator has taken the Function up yet; it does so within a second, if one runs.
    pub const WAITING_FOR_ACTIVATOR: &str = "WaitingForActivator";
    /// `Healthy=True`: pods run, or none is asked for.
    pub const HEALTHY: &str = "Healthy";
    /// `Healthy=True`: a new revision is being started; the old one serves.
    pub const ROLLING_OUT: &str = "RollingOut";
}

/// What Pilotlight says of a Function. The operator writes the conditions, url, revisions and warnings;
/// the activator writes replicas, the last decision and the last cold start.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct FunctionStatus {
    /// The `metadata.generation` that the operator saw last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the Function answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The revision that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The revision of the current spec. Differs from `revision` while a new one is being rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_revision: Option<String>,
    /// Selector of the Function's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// `Ready`, `Routable`, `Healthy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// What in the spec costs more than it needs to, such as milliseconds of a cold start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub warnings: Vec<String>,
    /// Replicas of the serving revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicaStatus>,
    /// The last scaling decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<LastDecision>,
    /// The last cold start, phase by phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_cold_start: Option<ColdStart>,
}

/// Replicas of the serving revision.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Replicas asked for.
    pub desired: i32,
    /// Replicas that answer on their port.
    pub ready: i32,
}

/// A scaling decision.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LastDecision {
    /// Replicas decided on.
    pub replicas: i32,
    /// Why, as in the metric `pilotlight_decisions_total`.
    pub reason: String,
    /// When.
    pub time: Time,
}

/// A cold start: a hold that began with no ready pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ColdStart {
    /// When the first request was held.
    pub time: Time,
    /// The revision that was started.
    pub revision: String,
    /// The pod that answered first.
    pub pod: String,
    /// Milliseconds from the first held request to each phase.
    pub milliseconds: ColdStartPhases,
}

/// Milliseconds from the moment when the first request was held, as seen by the activator.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ColdStartPhases {
    /// The API server had accepted the new number of replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaled: Option<f64>,
    /// The pod existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_created: Option<f64>,
    /// The pod had a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<f64>,
    /// The pod's address was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_known: Option<f64>,
    /// The pod answered on its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_answers: Option<f64>,
    /// The first byte of the response was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<f64>,
}
