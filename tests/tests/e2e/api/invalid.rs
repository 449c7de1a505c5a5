//! Specs and objects that the API server lets pass and that are wrong all the same.

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use pilotlight_crds::Function;
use pilotlight_tests::{
    await_condition, image,
    objects::{condition, function, hello, revision},
    scoped,
};
use serde_json::{Value, json};

use crate::support::{SECONDS, START, expect_ok, pod_of};

/// A template that sets what Pilotlight sets.
fn reserved() -> Value {
    let env = json!([{ "name": "PORT", "value": "1" }]);
    json!({ "template": { "spec": { "containers": [{ "name": "a", "image": image("hello"), "env": env }] } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_spec_is_reported_with_what_is_wrong() -> Result<()> {
    scoped(async |scope| {
        for (name, spec, part) in [
            ("2fa", hello(json!({})), "must begin with a letter"),
            ("reserved", reserved(), "variable PORT of the first container"),
        ] {
            scope.apply(name, spec).await?;
            let reason = scope.await_status(name, "Routable", "False", SECONDS).await?;
            ensure!(reason == "InvalidSpec", "{name}: {reason}");
            let function = scope.function(name).await?;
            let message =
                condition(&function, "Ready").map(|ready| ready.message.clone()).unwrap_or_default();
            ensure!(message.contains(part), "{name}: {message}");
            let event = scope.await_event(name, &["InvalidSpec"], SECONDS).await?;
            ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
            ensure!(scope.deployments(name).await?.is_empty(), "{name} has a Deployment");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_change_leaves_the_running_revision_as_it_is() -> Result<()> {
    scoped(async |scope| {
        let warm = json!({ "warm": 1 });
        let caller = scope.deploy("hello", hello(json!({ "scaling": warm }))).await?;
        scope.await_pods("hello", 1, START).await?;
        let (before, pod) = (revision(&scope.function("hello").await?), pod_of(&caller.get("/").await?)?);
        let mut broken = reserved();
        broken["scaling"] = warm;
        scope.apply("hello", broken).await?;
        let reason = scope.await_status("hello", "Routable", "False", SECONDS).await?;
        ensure!(reason == "InvalidSpec", "{reason}");
        ensure!(revision(&scope.function("hello").await?) == before, "another revision serves");
        let reply = caller.get("/").await?;
        expect_ok(&reply)?;
        ensure!(pod_of(&reply)? == pod, "another pod answers");
        ensure!(scope.deployments("hello").await?.len() == 1, "a Deployment was made of it");
        scope.deploy("hello", hello(json!({ "scaling": { "warm": 1 } }))).await?;
        ensure!(scope.await_status("hello", "Ready", "True", SECONDS).await? == "Ready", "not Ready again");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_read_stops_nothing() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("before", hello(json!({}))).await?;
        // The schema's pattern lets it pass; no u64 holds it.
        let bad = function("bad", hello(json!({ "hold": { "bytes": "99999999999999999999" } })));
        let resource = ApiResource::erase::<Function>(&());
        let api: Api<DynamicObject> =
            Api::namespaced_with(scope.cluster.client.clone(), &scope.namespace, &resource);
        api.patch("bad", &PatchParams::apply("pilotlight-tests"), &Patch::Apply(&bad)).await?;
        await_condition(SECONDS, "the operator counts it", async || {
            let pages = scope.cluster.admin("operator", "/metrics").await?.join("\n");
            let counted =
                pages.lines().find(|line| line.starts_with("pilotlight_operator_unreadable_objects_total"));
            counted.map(drop).context("not counted")
        })
        .await?;
        expect_ok(&caller.get("/").await?)?;
        let after = scope.deploy("after", hello(json!({}))).await?;
        expect_ok(&after.get("/").await?)
    })
    .await
}
