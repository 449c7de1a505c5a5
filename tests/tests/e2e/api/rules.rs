//! Every rule of the Function's definition, at a real API server: what it refuses, with which words, and
//! what it lets pass.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, PostParams},
};
use pilotlight_crds::{Function, function_crd};
use pilotlight_tests::{Scope, objects::function, scoped};
use serde_json::{Value, json};

/// Name, spec, and part of the message that refuses it.
fn refused() -> Vec<(String, Value, &'static str)> {
    let spec = |spec: Value| ("hello".to_owned(), spec);
    let template = |more: Value| {
        let mut spec = json!({ "template": { "spec": { "containers": [{ "name": "a", "image": "x" }] } } });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        spec
    };
    let label = json!({ "metadata": { "labels": { "pilotlight.dev/function": "x" } },
        "spec": { "containers": [{ "name": "a", "image": "x" }] } });
    let belongs = "belong to image: with template, put them into template.spec";
    [
        (("a".repeat(53), json!({ "image": "x" })), "metadata.name must be at most 52 characters"),
        (("a.b".to_owned(), json!({ "image": "x" })), "metadata.name must not contain dots"),
        (spec(json!({})), "spec needs exactly one of image and template"),
        (spec(template(json!({ "image": "x" }))), "spec needs exactly one of image and template"),
        (spec(template(json!({ "command": ["x"] }))), belongs),
        (spec(template(json!({ "args": ["x"] }))), belongs),
        (spec(template(json!({ "env": [{ "name": "A", "value": "b" }] }))), belongs),
        (spec(template(json!({ "envFrom": [{ "configMapRef": { "name": "a" } }] }))), belongs),
        (spec(template(json!({ "resources": {} }))), belongs),
        (spec(template(json!({ "imagePullSecrets": [{ "name": "a" }] }))), belongs),
        (spec(template(json!({ "serviceAccountName": "a" }))), belongs),
        (
            spec(json!({ "image": "x", "concurrency": 5, "scaling": { "target": { "concurrency": 6 } } })),
            "scaling.target.concurrency must not exceed concurrency",
        ),
        (spec(json!({ "image": "x", "env": [{ "name": "PORT", "value": "1" }] })), "env must not set PORT"),
        (spec(json!({ "image": "x", "env": [{ "name": "PILOTLIGHT_X" }] })), "env must not set PORT"),
        (spec(json!({ "image": "x", "hold": { "timeout": "99ms" } })), "hold.timeout must be between 100ms and 1h"),
        (spec(json!({ "image": "x", "hold": { "timeout": "61m" } })), "hold.timeout must be between 100ms and 1h"),
        (
            spec(json!({ "image": "x", "timeouts": { "firstByte": "20s", "total": "10s" } })),
            "timeouts.firstByte must not exceed timeouts.total",
        ),
        (
            spec(json!({ "image": "x", "timeouts": { "firstByte": "1ms" } })),
            "timeouts.firstByte must be at least 100ms",
        ),
        (spec(json!({ "image": "x", "timeouts": { "idle": "1ms" } })), "timeouts.idle must be at least 100ms"),
        (
            spec(json!({ "image": "x", "timeouts": { "total": "25h" } })),
            "timeouts.total must be between 100ms and 24h",
        ),
        (spec(json!({ "image": "x", "scaling": { "warm": 3, "max": 2 } })), "scaling.warm must not exceed scaling.max"),
        (spec(json!({ "image": "x", "scaling": { "idleAfter": "900ms" } })), "scaling.idleAfter must be at least 1s"),
        (spec(json!({ "image": "x", "scaling": { "target": {} } })), "scaling.target takes exactly one of"),
        (
            spec(json!({ "image": "x", "scaling": { "target": { "concurrency": 1, "requestsPerSecond": 1 } } })),
            "scaling.target takes exactly one of",
        ),
        (
            spec(json!({ "image": "x", "session": { "cookie": { "ttl": "9601h" } } })),
            "session.cookie.ttl must be between 1s and 9600h",
        ),
        (spec(json!({ "template": label })), "template.metadata.labels must not set pilotlight.dev/*"),
        // Bounds of the schema itself; their words are the API server's.
        (spec(json!({ "image": "" })), "spec.image"),
        (spec(json!({ "image": "x", "port": 0 })), "spec.port"),
        (spec(json!({ "image": "x", "port": 65_536 })), "spec.port"),
        (spec(json!({ "image": "x", "concurrency": -1 })), "spec.concurrency"),
        (spec(json!({ "image": "x", "scaling": { "max": 0 } })), "spec.scaling.max"),
        (spec(json!({ "image": "x", "scaling": { "idleAfter": "soon" } })), "spec.scaling.idleAfter"),
        (spec(json!({ "image": "x", "hold": { "requests": 0 } })), "spec.hold.requests"),
        (spec(json!({ "image": "x", "hold": { "bytes": "much" } })), "spec.hold.bytes"),
        (spec(json!({ "image": "x", "routes": [{ "hosts": ["a_b"] }] })), "spec.routes[0].hosts[0]"),
        (spec(json!({ "image": "x", "routes": [{ "path": "api" }] })), "spec.routes[0].path"),
        (spec(json!({ "image": "x", "probe": { "path": "healthz" } })), "spec.probe.path"),
        (spec(json!({ "image": "x", "session": { "affinity": "always" } })), "spec.session.affinity"),
        (spec(json!({ "image": "x", "session": { "cookie": { "name": "a b" } } })), "spec.session.cookie.name"),
        (spec(json!({ "template": { "spec": { "containers": [] } } })), "spec.template.spec.containers"),
    ]
    .map(|((name, spec), expected)| (name, spec, expected))
    .into()
}

fn accepted() -> Vec<Value> {
    vec![
        json!({ "image": "x" }),
        json!({ "template": { "spec": { "containers": [{ "name": "a", "image": "x" }] } } }),
        json!({ "image": "x", "concurrency": 0, "scaling": { "target": { "concurrency": 500 } } }),
        json!({ "image": "x", "concurrency": 7, "scaling": { "target": { "concurrency": 7 } } }),
        json!({ "image": "x", "scaling": { "warm": 2, "max": 2, "idleAfter": "1s" } }),
        json!({ "image": "x", "scaling": { "target": { "requestsPerSecond": 200 } } }),
        json!({ "image": "x", "hold": { "timeout": "100ms", "requests": 1, "bytes": 65536 } }),
        json!({ "image": "x", "hold": { "timeout": "1h", "bytes": "64Mi" } }),
        json!({ "image": "x", "timeouts": { "firstByte": "1m30s", "idle": "24h", "total": "24h" } }),
        json!({ "image": "x", "routes": [{ "hosts": ["a.com", "*.b.com"], "path": "/api/v1" }, {}] }),
        json!({ "image": "x", "session": { "cookie": { "name": "__Host-sid", "ttl": "9600h" }, "affinity": "off" } }),
        json!({ "image": "x", "env": [{ "name": "PORTAL", "value": "1" }], "probe": { "path": "/healthz?full=1" } }),
    ]
}

async fn dry_run(scope: &Scope, name: &str, spec: Value) -> Result<DynamicObject> {
    let api: Api<DynamicObject> = Api::namespaced_with(
        scope.cluster.client.clone(),
        &scope.namespace,
        &ApiResource::erase::<Function>(&()),
    );
    let object = serde_json::from_value(function(name, spec))?;
    Ok(api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_refuses_what_breaks_it_and_says_how_to_put_it_right() -> Result<()> {
    scoped(async |scope| {
        for (name, spec, expected) in refused() {
            let answer = dry_run(scope, &name, spec.clone()).await;
            let Err(error) = answer else { anyhow::bail!("accepted {name}: {spec}") };
            let message = error.to_string();
            ensure!(message.contains(expected), "{spec}: {message}");
        }
        Ok(())
    })
    .await
}

#[test]
fn the_table_above_has_every_rule() {
    let mut messages = BTreeSet::new();
    for version in function_crd().spec.versions {
        let schema = version.schema.and_then(|schema| schema.open_api_v3_schema);
        collect(&schema.expect("a schema"), &mut messages);
    }
    let table = refused();
    assert!(messages.len() >= 14, "rules were not found: {messages:?}");
    for message in messages {
        assert!(table.iter().any(|(_, _, part)| message.contains(part)), "no row for: {message}");
    }
}

fn collect(schema: &JSONSchemaProps, messages: &mut BTreeSet<String>) {
    let rules = schema.x_kubernetes_validations.iter().flatten();
    messages.extend(rules.filter_map(|rule| rule.message.clone()));
    schema
        .properties
        .iter()
        .flat_map(|properties| properties.values())
        .for_each(|nested| collect(nested, messages));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        collect(items, messages);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        collect(values, messages);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_the_rules_is_accepted_and_defaults_are_filled_in() -> Result<()> {
    scoped(async |scope| {
        for spec in accepted() {
            dry_run(scope, "hello", spec.clone()).await.with_context(|| format!("refused {spec}"))?;
        }
        let name = "a".repeat(52);
        dry_run(scope, &name, json!({ "image": "x" })).await.context("a name of 52 characters")?;
        let filled = dry_run(scope, "hello", json!({ "image": "x" })).await?;
        let expected = json!({
            "image": "x",
            "port": 8080,
            "protocol": "http1",
            "concurrency": 100,
            "scaling": { "warm": 0, "max": 50, "idleAfter": "1m" },
            "hold": { "timeout": "30s", "requests": 1000, "bytes": "64Mi" },
            "timeouts": { "firstByte": "30s", "idle": "1m", "total": "5m" },
        });
        let spec = &filled.data["spec"];
        ensure!(spec == &expected, "{spec}");
        Ok(())
    })
    .await
}
