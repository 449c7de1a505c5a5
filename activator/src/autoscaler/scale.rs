//! Orders to the API server: replicas of a Deployment, and which pods to delete first.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use pilotlight_crds::{FunctionKey, names};
use serde_json::json;

/// No order waits longer than this for the API server: the next look gives it again.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);
/// Lower than the default cost of 0, so that the ReplicaSet deletes these pods first.
const CHEAP: &str = "-1000";

/// Why an order failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScaleError {
    /// The API server said no.
    #[error("the API server refused")]
    Refused(#[source] kube::Error),
    /// The API server did not answer.
    #[error("the API server did not answer within {ORDER_TIMEOUT:?}")]
    Timeout,
}

impl ScaleError {
    /// The error with its cause, for a person.
    pub(super) fn explain(&self) -> String {
        match self {
            Self::Refused(cause) => format!("{self}: {cause}"),
            Self::Timeout => self.to_string(),
        }
    }

    /// Whether the Deployment is no longer as it was seen.
    pub(super) fn conflict(&self) -> bool {
        matches!(self, Self::Refused(kube::Error::Api(status)) if status.code == 409)
    }

    /// Whether the Deployment does not exist.
    fn not_found(&self) -> bool {
        matches!(self, Self::Refused(kube::Error::Api(status)) if status.code == 404)
    }
}

/// Orders `replicas` of a revision; with `unless_changed`, only if its Deployment still has that version.
///
/// # Errors
/// When the API server refuses or does not answer.
pub(super) async fn set_replicas(
    client: &Client,
    key: &FunctionKey,
    revision: &str,
    replicas: u32,
    unless_changed: Option<&str>,
) -> Result<(), ScaleError> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &key.namespace);
    let patch = Patch::Merge(match unless_changed {
        Some(version) => {
            json!({ "metadata": { "resourceVersion": version }, "spec": { "replicas": replicas } })
        }
        None => json!({ "spec": { "replicas": replicas } }),
    });
    let name = names::deployment(&key.name, revision);
    let params = PatchParams { field_manager: Some(names::ACTIVATOR.to_owned()), ..PatchParams::default() };
    in_time(deployments.patch_scale(&name, &params, &patch)).await.map(drop)
}

/// Makes pods the cheapest to delete.
///
/// # Errors
/// When the API server refuses or does not answer; a pod that has gone is no error.
pub(super) async fn mark_cheap(client: &Client, namespace: &str, pods: &[String]) -> Result<(), ScaleError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { names::DELETION_COST: CHEAP } } }));
    for pod in pods {
        match in_time(api.patch_metadata(pod, &PatchParams::default(), &patch)).await {
            Err(error) if !error.not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn in_time<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, ScaleError> {
    match tokio::time::timeout(ORDER_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(ScaleError::Refused),
        Err(_) => Err(ScaleError::Timeout),
    }
}
