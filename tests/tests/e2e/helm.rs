//! What `helm upgrade`, `helm rollback` and `helm uninstall` change, and what they leave.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Secret},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::Api;
use pilotlight_tests::{
    Cluster, Load, NAMESPACE, Scope, await_condition, disruptive, faults::await_rollout, helm, image,
    objects::hello,
};
use serde_json::{Value, json};

use crate::sessions::{cart, cart_spec, fill_cart};
use crate::support::{SECONDS, START, expect_ok};

const RELEASE: &str = "pilotlight";
const COMPONENTS: [&str; 3] = ["operator", "activator", "redis"];

fn chart() -> Result<String> {
    if let Ok(chart) = std::env::var("PILOTLIGHT_CHART") {
        return Ok(chart);
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    Ok(workspace.join("charts/pilotlight").to_string_lossy().into_owned())
}

async fn keys(cluster: &Cluster) -> Result<Vec<u8>> {
    let secret = cluster.api::<Secret>(NAMESPACE).get("pilotlight-keys").await?;
    Ok(secret.data.and_then(|mut data| data.remove("keys")).context("no keys")?.0)
}

async fn upgrade(cluster: &Cluster, settings: &[&str]) -> Result<()> {
    let chart = chart()?;
    let mut arguments = vec!["upgrade", RELEASE, &chart, "-n", NAMESPACE, "--reuse-values", "--wait"];
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    helm(&arguments).await?;
    rolled_out(cluster).await
}

async fn rolled_out(cluster: &Cluster) -> Result<()> {
    for component in COMPONENTS {
        await_rollout(cluster, component).await?;
    }
    Ok(())
}

/// Upgrades to other settings for as long as `during` takes; then the release is what it was before, whatever came
/// of that.
pub(crate) async fn with_settings(
    cluster: &Cluster,
    settings: &[&str],
    during: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let status = helm(&["status", RELEASE, "-n", NAMESPACE, "-o", "json"]).await?;
    let status: Value = serde_json::from_str(&status)?;
    let version = status["version"].as_u64().context("helm names no version")?.to_string();
    let outcome = match upgrade(cluster, settings).await {
        Ok(()) => during().await,
        Err(error) => Err(error),
    };
    // Not by setting the opposite: some values cannot be put back by a setting.
    helm(&["rollback", RELEASE, &version, "-n", NAMESPACE, "--wait"]).await?;
    rolled_out(cluster).await?;
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_keeps_keys_and_sessions_and_fails_no_request() -> Result<()> {
    disruptive(async |scope| {
        let cluster = &scope.cluster;
        let caller = scope.deploy("hello", hello(json!({ "scaling": { "warm": 1 } }))).await?;
        let carts = scope.deploy("cart", cart_spec()).await?;
        scope.await_pods("hello", 1, START).await?;
        let (old_keys, cookie) = (keys(cluster).await?, fill_cart(&carts, None, "tea").await?);
        let load = Load::new(&caller, "/", 40.0).start();
        // A setting that gives operator and activator new pods.
        let upgraded = with_settings(cluster, &["logLevel=debug"], async || Ok(())).await;
        let report = load.stop().await?;
        upgraded?;
        println!("an upgrade and a rollback: {report}");
        report.all_answered()?;
        ensure!(keys(cluster).await? == old_keys, "the keys are new");
        ensure!(cart(&carts, &cookie).await? == json!({ "tea": 2 }), "the session is gone");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstall_leaves_functions_and_a_new_install_serves_them() -> Result<()> {
    disruptive(async |scope| {
        let caller = scope.deploy("hello", hello(json!({ "scaling": { "warm": 1 } }))).await?;
        scope.await_pods("hello", 1, START).await?;
        expect_ok(&caller.get("/").await?)?;
        let pods = scope.pod_names("hello").await?;
        let file = std::env::temp_dir().join(format!("{}-values.yaml", scope.namespace));
        tokio::fs::write(&file, helm(&["get", "values", RELEASE, "-n", NAMESPACE, "-o", "yaml"]).await?)
            .await?;
        let values = file.to_string_lossy().into_owned();
        helm(&["uninstall", RELEASE, "-n", NAMESPACE, "--wait"]).await?;
        let left = left_behind(scope).await;
        // Whatever was found: others need Pilotlight.
        let chart = chart()?;
        helm(&["install", RELEASE, &chart, "-n", NAMESPACE, "-f", &values, "--wait"]).await?;
        tokio::fs::remove_file(&file).await?;
        rolled_out(&scope.cluster).await?;
        left?;
        ensure!(scope.pod_names("hello").await? == pods, "the function's pods were replaced");
        let again = Cluster::connect().await?;
        let host = format!("hello.{}", scope.namespace);
        let caller = pilotlight_tests::Caller::new(&again.activator, &host)?;
        await_condition(Duration::from_secs(10), "the function answers again", async || {
            expect_ok(&caller.get("/").await?)
        })
        .await?;
        // The operator that came works as well.
        scope.apply("hello", json!({ "image": image("hello"), "scaling": { "warm": 0 } })).await?;
        scope.routable("hello").await.map(drop)
    })
    .await
}

/// Nothing of Pilotlight but the user's Functions and their definition.
async fn left_behind(scope: &Scope) -> Result<()> {
    let cluster = &scope.cluster;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    definitions.get("functions.pilotlight.dev").await.context("the definition of Functions is gone")?;
    scope.function("hello").await.context("the Function is gone")?;
    await_condition(SECONDS * 3, "Pilotlight's own parts are gone", async || {
        let deployments = cluster.api::<Deployment>(NAMESPACE).list(&Default::default()).await?.items;
        ensure!(deployments.is_empty(), "{} Deployments are left", deployments.len());
        Ok(())
    })
    .await
}
