//! What becomes of a Function: its Deployment, Service, Secret and status.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Pod, Secret, Service},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use pilotlight_crds::{Function, names};
use pilotlight_tests::{
    Scope, await_condition,
    objects::{condition, example, hello, replicas, revision},
    scoped, stays,
};
use serde_json::json;

use crate::support::{END, SECONDS, START, expect_ok};

fn owned_by(references: Option<Vec<OwnerReference>>, function: &Function) -> Result<()> {
    let owner = references.into_iter().flatten().next().context("no owner")?;
    let uid = function.metadata.uid.clone().unwrap_or_default();
    let expected = ("Function", uid.as_str(), Some(true));
    ensure!((owner.kind.as_str(), owner.uid.as_str(), owner.controller) == expected, "{owner:?}");
    Ok(())
}

async fn only_deployment(scope: &Scope, name: &str) -> Result<Deployment> {
    let mut deployments = scope.deployments(name).await?;
    ensure!(deployments.len() == 1, "{} Deployments", deployments.len());
    deployments.pop().context("no Deployment")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_gets_a_deployment_a_service_and_a_status() -> Result<()> {
    scoped(async |scope| {
        scope.apply("cart", example("cart", json!({ "session": {} }))).await?;
        let function = scope.routable("cart").await?;
        let deployment = only_deployment(scope, "cart").await?;
        let service = scope.service("cart").await?;
        let secret: Secret = scope.api().get(&names::state_secret("cart")).await?;
        owned_by(deployment.metadata.owner_references.clone(), &function).context("Deployment")?;
        owned_by(service.metadata.owner_references, &function).context("Service")?;
        owned_by(secret.metadata.owner_references, &function).context("Secret")?;
        ensure!(replicas(&deployment) == 0, "it begins with {} replicas", replicas(&deployment));
        let status = function.status.clone().unwrap_or_default();
        ensure!(
            status.url == Some(format!("http://cart.{}.pilotlight.local", scope.namespace)),
            "{:?}",
            status.url
        );
        ensure!(status.observed_generation == function.metadata.generation, "{status:?}");
        let labelled = deployment.labels().get(names::REVISION_LABEL);
        ensure!(
            status.revision.as_ref() == labelled && status.latest_revision == status.revision,
            "{status:?}"
        );
        for type_ in ["Ready", "Routable", "Healthy"] {
            ensure!(condition(&function, type_).is_some_and(|c| c.status == "True"), "{type_}: {status:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_lean_and_restricted() -> Result<()> {
    scoped(async |scope| {
        // The namespace enforces `restricted`: that a pod runs shows that it keeps to it.
        let caller = scope.deploy("hello", hello(json!({}))).await?;
        expect_ok(&caller.get("/").await?)?;
        let pods = scope.pods("hello").await?;
        let spec = pods.first().and_then(|pod| pod.spec.clone()).context("no pod")?;
        ensure!(spec.volumes.unwrap_or_default().is_empty(), "a volume costs 300 ms");
        ensure!(spec.containers.len() == 1, "a sidecar costs 110 ms");
        ensure!(spec.automount_service_account_token == Some(false), "a token is a volume");
        ensure!(spec.enable_service_links == Some(false), "service links");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_costs_a_cold_start_is_warned_of() -> Result<()> {
    scoped(async |scope| {
        let container = json!({ "name": "function", "image": pilotlight_tests::image("hello") });
        let template = json!({ "spec": {
            "containers": [container],
            "volumes": [{ "name": "scratch", "emptyDir": {} }],
        } });
        let caller = scope.deploy("hello", json!({ "template": template })).await?;
        let status = scope.function("hello").await?.status.unwrap_or_default();
        ensure!(status.warnings.iter().any(|warning| warning.contains("300 ms")), "{:?}", status.warnings);
        expect_ok(&caller.get("/").await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changes_the_pod_makes_a_new_revision() -> Result<()> {
    scoped(async |scope| {
        scope.deploy("hello", hello(json!({}))).await?;
        let first = revision(&scope.function("hello").await?);
        scope.deploy("hello", hello(json!({ "scaling": { "max": 7 }, "concurrency": 9 }))).await?;
        let same = scope.function("hello").await?.status.unwrap_or_default();
        ensure!(same.latest_revision == first, "scaling made a new revision");
        let spec = hello(json!({ "env": [{ "name": "A", "value": "b" }], "scaling": { "idleAfter": "1s" } }));
        scope.deploy("hello", spec).await?;
        await_condition(START, "a new revision serves, and the old one is gone", async || {
            let now = revision(&scope.function("hello").await?);
            ensure!(now.is_some() && now != first, "{now:?} serves");
            let left = only_deployment(scope, "hello").await?;
            ensure!(left.labels().get(names::REVISION_LABEL) == now.as_ref(), "another Deployment is left");
            Ok(())
        })
        .await?;
        // It was started to see whether it can; nobody calls it, so it goes back to zero.
        scope.await_pods("hello", 0, END).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_function_collects_everything() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("cart", example("cart", json!({ "session": {} }))).await?;
        caller.get("/cart").await?;
        scope.api::<Function>().delete("cart", &DeleteParams::background()).await?;
        await_condition(END, "nothing is left", async || {
            let labels = ListParams::default().labels(&names::pods_selector("cart"));
            let left = [
                scope.api::<Deployment>().list(&labels).await?.items.len(),
                scope.api::<Service>().list(&labels).await?.items.len(),
                scope.api::<Secret>().list(&labels).await?.items.len(),
                scope.api::<Pod>().list(&labels).await?.items.len(),
            ];
            ensure!(left == [0; 4], "Deployments, Services, Secrets, pods: {left:?}");
            Ok(())
        })
        .await?;
        let reply = caller.get("/cart").await?;
        ensure!(reply.status == 404 && reply.reason() == "no-such-function", "{}", reply.describe());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_service_and_a_deleted_deployment_come_back() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("hello", hello(json!({}))).await?;
        let old = scope.service("hello").await?.metadata.uid;
        scope.api::<Service>().delete("hello", &DeleteParams::default()).await?;
        await_condition(SECONDS, "the Service is back", async || {
            let now = scope.service("hello").await?.metadata.uid;
            ensure!(now != old, "not deleted yet");
            Ok(())
        })
        .await?;
        let old = only_deployment(scope, "hello").await?;
        scope.api::<Deployment>().delete(&old.name_any(), &DeleteParams::background()).await?;
        await_condition(SECONDS, "the Deployment is back", async || {
            let now = only_deployment(scope, "hello").await?;
            ensure!(now.metadata.uid != old.metadata.uid, "not deleted yet");
            Ok(())
        })
        .await?;
        expect_ok(&caller.get("/").await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_children_are_put_right() -> Result<()> {
    scoped(async |scope| {
        scope.deploy("hello", hello(json!({}))).await?;
        let deployment = only_deployment(scope, "hello").await?;
        let stranger = PatchParams { field_manager: Some("somebody".to_owned()), ..PatchParams::default() };
        let patch = json!({
            "metadata": { "labels": { names::REVISION_LABEL: "wrong" } },
            "spec": { "template": { "spec": { "enableServiceLinks": true } } },
        });
        let deployments = scope.api::<Deployment>();
        deployments.patch(&deployment.name_any(), &stranger, &Patch::Merge(&patch)).await?;
        let patch = json!({ "spec": { "externalName": "somewhere.else" } });
        let right = scope.service("hello").await?.spec;
        scope.api::<Service>().patch("hello", &stranger, &Patch::Merge(&patch)).await?;
        await_condition(SECONDS, "the children are as they were", async || {
            let now = deployments.get(&deployment.name_any()).await?;
            let pod = now.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
            ensure!(now.labels() == deployment.labels(), "labels {:?}", now.labels());
            ensure!(pod.and_then(|pod| pod.enable_service_links) == Some(false), "the template is changed");
            ensure!(scope.service("hello").await?.spec == right, "the Service is changed");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_does_not_own_the_number_of_replicas() -> Result<()> {
    scoped(async |scope| {
        scope.deploy("hello", hello(json!({ "scaling": { "warm": 1 } }))).await?;
        scope.await_pods("hello", 1, START).await?;
        let deployment = only_deployment(scope, "hello").await?;
        let owners: Vec<String> = deployment
            .managed_fields()
            .iter()
            .filter(|entry| {
                entry.fields_v1.as_ref().is_some_and(|fields| !fields.0["f:spec"]["f:replicas"].is_null())
            })
            .filter_map(|entry| entry.manager.clone())
            .collect();
        ensure!(!owners.is_empty() && !owners.contains(&names::OPERATOR.to_owned()), "owned by {owners:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_somebody_else_is_left_alone_and_reported() -> Result<()> {
    scoped(async |scope| {
        let foreign: Service = serde_json::from_value(json!({
            "metadata": { "name": "hello", "labels": { "app": "theirs" } },
            "spec": { "ports": [{ "port": 80 }], "selector": { "app": "theirs" } },
        }))?;
        let foreign = scope.api::<Service>().create(&PostParams::default(), &foreign).await?;
        scope.apply("hello", hello(json!({}))).await?;
        let reason = scope.await_status("hello", "Routable", "False", SECONDS).await?;
        ensure!(reason == "ChildRefused", "{reason}");
        scope.await_event("hello", &["ChildRefused"], SECONDS).await?;
        stays(Duration::from_secs(2), "the Service is untouched", async || {
            let now = scope.service("hello").await?;
            ensure!(now.metadata.resource_version == foreign.metadata.resource_version, "{now:?}");
            Ok(())
        })
        .await
    })
    .await
}
