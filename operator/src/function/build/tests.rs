//! What is built from which spec: a golden file, a pinned hash, and what a user's template changes.

use pilotlight_crds::Function;
use serde_json::{Value, json};

use super::*;
use crate::function::validate::validate;

/// A Function as the API server returns it, every default filled in.
pub(crate) fn function(name: &str, spec: Value) -> Function {
    let metadata = json!({"name": name, "namespace": "demo", "uid": "uid-1", "generation": 1});
    serde_json::from_value(json!({
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Function",
        "metadata": metadata,
        "spec": spec,
    }))
    .unwrap()
}

pub(crate) fn identity(function: &Function) -> Identity {
    Identity::of(function).unwrap()
}

fn valid(spec: Value) -> Validated {
    let function = function("hello", spec);
    validate(&function, &identity(&function)).unwrap()
}

fn children(spec: Value) -> Children<Desired> {
    build(&valid(spec), &Config::test()).unwrap()
}

fn pod(spec: Value) -> Value {
    serde_json::to_value(children(spec).deployment.spec.unwrap().template.spec.unwrap()).unwrap()
}

/// A Function that has nothing but an image, whole. If the revision changes here, an upgrade of the
/// operator rolls out every Function anew.
#[test]
fn an_image_alone_becomes_a_lean_and_restricted_deployment() {
    let Children { revision, secret, deployment, service } = children(json!({"image": "example/hello:1"}));
    let yaml =
        [serde_yaml_ng::to_string(&deployment), serde_yaml_ng::to_string(&service)].map(Result::unwrap);
    assert_eq!(yaml.join("---\n"), include_str!("golden.yaml"));
    assert_eq!(deployment.metadata.name, Some(format!("hello-{revision}")));
    assert!(deployment.spec.unwrap().replicas.is_none(), "replicas belong to the activator");
    assert!(secret.is_none());
}

#[test]
fn only_what_changes_the_pod_makes_a_new_revision() {
    let revision = |spec| children(spec).revision;
    let first = revision(json!({"image": "x"}));
    for same in [
        json!({"image": "x", "concurrency": 5}),
        json!({"image": "x", "scaling": {"warm": 3, "max": 9}}),
        json!({"image": "x", "hold": {"timeout": "1s"}}),
        json!({"image": "x", "probe": {"path": "/up"}}),
        json!({"image": "x", "routes": [{"hosts": ["a.example"]}]}),
        json!({"image": "x", "timeouts": {"total": "1h"}}),
    ] {
        assert_eq!(revision(same.clone()), first, "{same}");
    }
    for other in [
        json!({"image": "y"}),
        json!({"image": "x", "port": 9000}),
        json!({"image": "x", "args": ["-v"]}),
        json!({"image": "x", "session": {}}),
        json!({"image": "x", "timeouts": {"total": "60s"}}),
        json!({"image": "x", "serviceAccountName": "sa"}),
    ] {
        assert_ne!(revision(other.clone()), first, "{other}");
    }
}

#[test]
fn a_session_adds_the_state_api_and_its_secret() {
    let children = children(json!({"image": "x", "session": {}, "env": [{"name": "A", "value": "$(PORT)"}]}));
    let secret = children.secret.unwrap();
    assert_eq!(secret.metadata.name.as_deref(), Some("hello-state"));
    assert!(refers_to_secret(&children.deployment, "hello-state"));
    assert!(!refers_to_secret(&children.deployment, "other"));
    let pod = children.deployment.spec.unwrap().template.spec.unwrap();
    assert_eq!(
        serde_json::to_value(&pod.containers[0].env).unwrap(),
        json!([
            {"name": "PORT", "value": "8080"},
            {"name": "PILOTLIGHT_STATE_URL", "value": "http://pilotlight-state.pilotlight.svc:8082"},
            {"name": "PILOTLIGHT_STATE_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hello-state", "key": "token"}}},
            {"name": "A", "value": "$(PORT)"},
        ])
    );
}

#[test]
fn what_a_template_says_wins_and_defaults_fill_the_gaps() {
    let pod = pod(json!({"port": 9000, "template": {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": true,
            "securityContext": {"runAsUser": 1000},
            "containers": [
                {
                    "name": "main",
                    "image": "x",
                    "ports": [{"containerPort": 9000, "name": "web"}, {"containerPort": 1, "name": "http"}],
                    "lifecycle": {},
                    "securityContext": {"readOnlyRootFilesystem": true, "capabilities": {"add": ["NET_BIND_SERVICE"]}},
                },
                {"name": "side", "image": "y", "securityContext": {"privileged": true, "runAsUser": 0}},
            ],
        },
    }}));
    let main = &pod["containers"][0];
    assert_eq!(pod["terminationGracePeriodSeconds"], 1);
    assert_eq!(pod["enableServiceLinks"], true);
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(
        pod["securityContext"],
        json!({"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}})
    );
    assert_eq!((&main["name"], &main["lifecycle"]), (&json!("main"), &json!({})));
    assert_eq!(main["ports"].as_array().map(Vec::len), Some(2), "the port is there under the user's name");
    assert_eq!(
        main["securityContext"],
        json!({
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
        })
    );
    assert_eq!(pod["containers"][1]["securityContext"]["allowPrivilegeEscalation"], true, "or it is refused");
    assert_eq!(pod["containers"][1]["securityContext"]["runAsNonRoot"], false);
    assert_eq!(pod["containers"][1]["env"], Value::Null, "only the first container serves");
}

#[test]
fn a_named_service_account_is_mounted() {
    let pod = pod(json!({"image": "x", "serviceAccountName": "sa"}));
    assert_eq!(pod["automountServiceAccountToken"], true);
}

#[test]
fn what_costs_milliseconds_is_said() {
    let template = json!({"spec": {
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [{"name": "i"}],
        "containers": [{"name": "a"}, {"name": "b"}],
    }});
    for (spec, expected) in [
        (json!({"image": "x"}), vec![]),
        (json!({"image": "x", "serviceAccountName": "sa"}), vec!["token costs about 300 ms"]),
        (
            json!({"template": template}),
            vec!["volumes cost about 300 ms", "2 further containers cost about 220 ms"],
        ),
    ] {
        let warnings = warnings(&valid(spec.clone()));
        assert_eq!(warnings.len(), expected.len(), "{spec}: {warnings:?}");
        for (warning, part) in warnings.iter().zip(expected) {
            assert!(warning.contains(part), "{warning}");
        }
    }
}

#[test]
fn the_url_is_the_first_that_can_be_called() {
    for (routes, expected) in [
        (json!([]), "http://hello.demo.pilotlight.local"),
        (json!([{"path": "/only-a-path"}]), "http://hello.demo.pilotlight.local"),
        (json!([{"hosts": ["*.example.com"]}]), "http://hello.demo.pilotlight.local"),
        (json!([{"hosts": ["*.example.com", "a.example.com"], "path": "/api/"}]), "http://a.example.com/api"),
        (json!([{"hosts": ["a.example.com"]}]), "http://a.example.com"),
    ] {
        assert_eq!(
            url(&valid(json!({"image": "x", "routes": routes})), &Config::test()),
            expected,
            "{routes}"
        );
    }
}
