//! Every label, environment variable and derived name that more than one process must agree on.

use crate::FunctionKey;

/// API group of all our resources.
pub const GROUP: &str = "pilotlight.dev";
/// Field manager of the operator: children, conditions, url, revision.
pub const OPERATOR: &str = "pilotlight-operator";
/// Field manager of the activator: replicas, the last decision, the last cold start.
pub const ACTIVATOR: &str = "pilotlight-activator";

/// Label with the value [`MANAGER`] on everything that the operator makes.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`].
pub const MANAGER: &str = "pilotlight";
/// Label with the Function's name on its Deployments and pods.
pub const FUNCTION_LABEL: &str = "pilotlight.dev/function";
/// Label with the revision's hash on Deployments and pods.
pub const REVISION_LABEL: &str = "pilotlight.dev/revision";
/// Annotation by which a ReplicaSet learns which pod to delete first
/// (<https://kubernetes.io/docs/reference/labels-annotations-taints/#pod-deletion-cost>).
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Name of the container that serves a Function's port.
pub const CONTAINER: &str = "function";
/// Name of the container port that requests go to.
pub const PORT_NAME: &str = "http";
/// Environment variable that tells a function which port to serve.
pub const PORT_ENV: &str = "PORT";
/// Environment variable with the base URL of the state API.
pub const STATE_URL_ENV: &str = "PILOTLIGHT_STATE_URL";
/// Environment variable with the function's own token for the state API.
pub const STATE_TOKEN_ENV: &str = "PILOTLIGHT_STATE_TOKEN";
/// Key of the token in the Secret that [`state_secret`] names.
pub const STATE_TOKEN_KEY: &str = "token";

/// Label selector for all pods of all Functions.
pub fn all_pods_selector() -> String {
    format!("{MANAGED_BY_LABEL}={MANAGER},{FUNCTION_LABEL}")
}

/// Label selector for the pods of one Function, as `kubectl get pods -l` takes it.
pub fn pods_selector(function: &str) -> String {
    format!("{FUNCTION_LABEL}={function}")
}

/// Name of the Deployment of a revision. Function names are at most 52 characters, so that the
/// pods' names and their `generateName` stay inside Kubernetes' limits.
pub fn deployment(function: &str, revision: &str) -> String {
    format!("{function}-{revision}")
}

/// Name of the Secret with a Function's token for the state API.
pub fn state_secret(function: &str) -> String {
    format!("{function}-state")
}

/// Hosts inside the cluster that always reach a Function (`<name>.<namespace>` and its longer forms),
/// and the one outside (`<name>.<namespace>.<domain>`).
pub fn default_hosts(key: &FunctionKey, domain: &str, cluster_domain: &str) -> [String; 4] {
    let FunctionKey { namespace, name } = key;
    [
        format!("{name}.{namespace}.{domain}"),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.{cluster_domain}"),
    ]
}
