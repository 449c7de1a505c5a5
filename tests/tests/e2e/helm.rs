//! What `helm upgrade` and `helm uninstall` change, and what they leave.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Secret},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::Api;
use pilotlight_crds::Function;
use pilotlight_tests::{
    Cluster, Load, NAMESPACE, await_condition, disruptive, faults::await_rollout, helm, image, objects::hello,
};
use serde_json::json;

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

pub(crate) async fn upgrade(settings: &[&str]) -> Result<()> {
    let chart = chart()?;
    let mut arguments = vec!["upgrade", RELEASE, &chart, "-n", NAMESPACE, "--reuse-values", "--wait"];
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    helm(&arguments).await.map(drop)
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
        let upgraded = async {
            // A setting that gives operator and activator new pods, and is put back after.
            upgrade(&["logLevel=debug"]).await?;
            await_rollout(cluster, "activator").await?;
            await_rollout(cluster, "operator").await?;
            upgrade(&["logLevel=info"]).await?;
            await_rollout(cluster, "activator").await?;
            await_rollout(cluster, "operator").await
        }
        .await;
        let report = load.stop().await?;
        upgraded?;
        println!("two upgrades: {report}");
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
        let left = left_behind(&scope.cluster).await;
        // Whatever was found: others need Pilotlight.
        let chart = chart()?;
        helm(&["install", RELEASE, &chart, "-n", NAMESPACE, "-f", &values, "--wait"]).await?;
        tokio::fs::remove_file(&file).await?;
        for component in COMPONENTS {
            await_rollout(&scope.cluster, component).await?;
        }
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
async fn left_behind(cluster: &Cluster) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    definitions.get("functions.pilotlight.dev").await.context("the definition of Functions is gone")?;
    let functions: Api<Function> = Api::all(cluster.client.clone());
    ensure!(!functions.list(&Default::default()).await?.items.is_empty(), "the Functions are gone");
    await_condition(SECONDS * 3, "Pilotlight's own parts are gone", async || {
        let deployments = cluster.api::<Deployment>(NAMESPACE).list(&Default::default()).await?.items;
        ensure!(deployments.is_empty(), "{} Deployments are left", deployments.len());
        Ok(())
    })
    .await
}
