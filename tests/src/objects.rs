//! Objects as tests write and read them.

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use pilotlight_crds::Function;
use serde_json::{Value, json};

use crate::image;

/// A manifest of a Function.
pub fn function(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Function",
        "metadata": { "name": name },
        "spec": spec,
    })
}

/// The spec of an example function, with fields added or replaced.
pub fn example(name: &str, more: Value) -> Value {
    let mut spec = json!({ "image": image(name) });
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    spec
}

/// `hello` with fields added or replaced.
pub fn hello(more: Value) -> Value {
    example("hello", more)
}

/// `slow-start` that listens after `delay`, with fields added or replaced.
pub fn slow_start(delay: &str, more: Value) -> Value {
    let mut spec = example("slow-start", more);
    spec["env"] = json!([{ "name": "START_DELAY", "value": delay }]);
    spec
}

/// A condition of a Function's status.
pub fn condition<'a>(function: &'a Function, type_: &str) -> Option<&'a Condition> {
    function.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)
}

/// The revision that serves.
pub fn revision(function: &Function) -> Option<String> {
    function.status.as_ref()?.revision.clone()
}

/// Whether the kubelet calls a pod ready.
pub fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Replicas that a Deployment asks for.
pub fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}
