//! How a Function scales.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::Span;

/// How many replicas a Function may have, and what drives their number.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.warm <= self.max")
    .message("scaling.warm must not exceed scaling.max: raise max or lower warm")
    .field_path(".warm"))]
pub struct Scaling {
    /// Warm pool: replicas that stay ready whatever the load. `kubectl scale` sets this. 0 scales to zero.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10_000))]
    pub warm: u32,
    /// The most replicas that the Function may have.
    #[serde(default = "default_max")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max: u32,
    /// Load per pod to aim at. Default: 70 % of `concurrency`, or 100 in flight where that is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Quiet time before the last pods above `warm` go.
    #[serde(default = "default_idle_after")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s')")
        .message("scaling.idleAfter must be at least 1s"))]
    pub idle_after: Span,
}

/// The load of one pod to aim at: a soft target, unlike `concurrency`, which is a hard limit.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.concurrency) != has(self.requestsPerSecond)")
    .message("scaling.target takes exactly one of concurrency and requestsPerSecond"))]
pub struct Target {
    /// Requests in flight per pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrency: Option<u32>,
    /// Requests per second per pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_second: Option<u32>,
}

const fn default_max() -> u32 {
    50
}

const fn default_idle_after() -> Span {
    Span::from_secs(60)
}

impl Default for Scaling {
    fn default() -> Self {
        Self { warm: 0, max: default_max(), target: None, idle_after: default_idle_after() }
    }
}
