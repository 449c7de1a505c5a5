//! Why a pod does not start, read from what the kubelet and the scheduler say of it.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerStatus, Pod},
};
use serde::Serialize;

/// Why a pod does not start, in the words of the kubelet or the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct PodTrouble {
    /// A Kubernetes reason: `ErrImagePull`, `CrashLoopBackOff`, `Unschedulable`, ...
    pub reason: String,
    /// What the kubelet or the scheduler adds for a person.
    pub message: String,
}

/// Waiting reasons that are part of every start; all others are trouble.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The first trouble of a pod, or `None` while it starts or runs as it should.
pub fn pod_trouble(pod: &Pod) -> Option<PodTrouble> {
    let status = pod.status.as_ref()?;
    let unschedulable = status.conditions.iter().flatten().find_map(|condition| {
        (condition.type_ == "PodScheduled" && condition.status == "False").then(|| PodTrouble {
            reason: condition.reason.clone().unwrap_or_else(|| "Unschedulable".to_owned()),
            message: condition.message.clone().unwrap_or_default(),
        })
    });
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    unschedulable
        .or_else(|| containers.filter_map(container_trouble).next())
        .or_else(|| (status.phase.as_deref() == Some("Failed")).then(|| failed_pod(pod)))
}

fn container_trouble(container: &ContainerStatus) -> Option<PodTrouble> {
    let state = container.state.as_ref()?;
    let last_exit = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.clone().unwrap_or_default();
        if reason.is_empty() || STARTING.contains(&reason.as_str()) {
            return None;
        }
        let exit = last_exit.map(|exit| format!(" (last exit code {})", exit.exit_code)).unwrap_or_default();
        let message = waiting.message.clone().unwrap_or_default();
        return Some(PodTrouble {
            reason,
            message: format!("container {}: {message}{exit}", container.name),
        });
    }
    // An init container that ends with 0 has done its work.
    let exit = state.terminated.as_ref().filter(|exit| exit.exit_code != 0)?;
    Some(PodTrouble {
        reason: exit.reason.clone().unwrap_or_else(|| "Error".to_owned()),
        message: format!("container {} ended with exit code {}", container.name, exit.exit_code),
    })
}

fn failed_pod(pod: &Pod) -> PodTrouble {
    let status = pod.status.as_ref();
    PodTrouble {
        reason: status.and_then(|s| s.reason.clone()).unwrap_or_else(|| "Failed".to_owned()),
        message: status.and_then(|s| s.message.clone()).unwrap_or_default(),
    }
}

/// Why the pods of a Deployment cannot even be created, such as for a quota or an admission policy.
pub fn deployment_trouble(deployment: &Deployment) -> Option<PodTrouble> {
    // A Deployment that wants no pods keeps the condition of the last time.
    let wants_pods = deployment.spec.as_ref()?.replicas != Some(0);
    let conditions = deployment.status.as_ref()?.conditions.iter().flatten();
    let failure =
        conditions.filter(|_| wants_pods).find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    Some(PodTrouble {
        reason: failure.reason.clone().unwrap_or_else(|| "FailedCreate".to_owned()),
        message: failure.message.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(status: serde_json::Value, expected: Option<&str>) {
        let pod: Pod = serde_json::from_value(json!({ "status": status })).unwrap();
        assert_eq!(pod_trouble(&pod).map(|trouble| trouble.reason).as_deref(), expected);
    }

    #[test]
    fn trouble_is_told_from_an_ordinary_start() {
        check(json!({}), None);
        check(json!({"phase": "Pending", "containerStatuses": [waiting("ContainerCreating")]}), None);
        check(json!({"containerStatuses": [waiting("ErrImagePull")]}), Some("ErrImagePull"));
        check(
            json!({"initContainerStatuses": [waiting("CrashLoopBackOff")], "containerStatuses": [waiting("PodInitializing")]}),
            Some("CrashLoopBackOff"),
        );
        check(
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}),
            Some("Unschedulable"),
        );
        check(json!({"containerStatuses": [terminated(0)]}), None);
        check(json!({"containerStatuses": [terminated(1)]}), Some("Error"));
        check(json!({"phase": "Failed", "reason": "Evicted"}), Some("Evicted"));
    }

    fn waiting(reason: &str) -> serde_json::Value {
        json!({"name": "function", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}})
    }

    fn terminated(code: i32) -> serde_json::Value {
        json!({"name": "function", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }}}})
    }
}
