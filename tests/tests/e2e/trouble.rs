//! Functions that cannot start say why: in the response, on the Function, and as an Event.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota};
use kube::api::PostParams;
use pilotlight_tests::{Caller, Reply, Scope, objects::hello, objects::slow_start, scoped};
use serde_json::{Value, json};

use crate::support::{SECONDS, START, expect_ok, expect_problem};

/// A request is answered once trouble has lasted for 5 s: some passes by itself. Counted from when it is reported.
const ANSWER: Duration = Duration::from_secs(12);
/// The kubelet looks for what was missing every 10 to 15 s, and then starts the pod.
const NEXT_LOOK: Duration = Duration::from_secs(15);

/// Calls a function that cannot start and makes sure that everybody is told why.
async fn expect_explained(scope: &Scope, name: &str, spec: Value, reasons: &[&str]) -> Result<Reply> {
    let caller = scope.deploy(name, spec).await?;
    let began = Instant::now();
    let calling = tokio::spawn(async move { caller.get("/").await });
    // It has to be started to get into trouble.
    let reason = scope.await_status(name, "Healthy", "False", START).await?;
    let reported = Instant::now();
    println!("{name} was reported as {reason} after {:?}", began.elapsed());
    ensure!(reasons.contains(&reason.as_str()), "{reason} is none of {reasons:?}");
    scope.await_event(name, reasons, SECONDS).await?;
    let reply = calling.await??;
    ensure!(reported.elapsed() < ANSWER, "answered {:?} after it was reported", reported.elapsed());
    let problem = expect_problem(&reply, 503, "cannot-start")?;
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(reasons.iter().any(|reason| detail.contains(reason)), "{detail}");
    ensure!(problem["reached_pod"] == false && !reply.header("retry-after").is_empty(), "{problem}");
    let ready = scope.await_status(name, "Ready", "False", SECONDS).await?;
    ensure!(reasons.contains(&ready.as_str()), "Ready=False says {ready}");
    Ok(reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_exist() -> Result<()> {
    scoped(async |scope| {
        let spec = json!({ "image": "pilotlight.local/no-such-image:dev" });
        expect_explained(scope, "hello", spec, &["ErrImagePull", "ImagePullBackOff"]).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_at_once() -> Result<()> {
    scoped(async |scope| {
        let spec = slow_start("nonsense", json!({}));
        expect_explained(scope, "broken", spec, &["Error", "CrashLoopBackOff"]).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_exist() -> Result<()> {
    scoped(async |scope| {
        let spec = hello(json!({ "command": ["/no-such-program"] }));
        let reasons = ["RunContainerError", "StartError", "ContainerCannotRun", "CrashLoopBackOff"];
        expect_explained(scope, "hello", spec, &reasons).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn more_cpu_than_any_node_has() -> Result<()> {
    scoped(async |scope| {
        let spec = hello(json!({ "resources": { "requests": { "cpu": "1000" } } }));
        expect_explained(scope, "hello", spec, &["Unschedulable"]).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_allows_no_pod() -> Result<()> {
    scoped(async |scope| {
        let quota: ResourceQuota = serde_json::from_value(json!({
            "metadata": { "name": "none" },
            "spec": { "hard": { "pods": "0" } },
        }))?;
        scope.api().create(&PostParams::default(), &quota).await?;
        expect_explained(scope, "hello", hello(json!({})), &["FailedCreate"]).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_that_is_missing_and_then_comes() -> Result<()> {
    scoped(async |scope| {
        let spec = hello(json!({ "envFrom": [{ "configMapRef": { "name": "settings" } }] }));
        expect_explained(scope, "hello", spec, &["CreateContainerConfigError"]).await?;
        let settings: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "settings" } }))?;
        scope.api().create(&PostParams::default(), &settings).await?;
        scope.await_status("hello", "Healthy", "True", NEXT_LOOK + START).await?;
        expect_ok(&scope.caller("hello").await?.get("/").await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_one_function_does_not_touch_another() -> Result<()> {
    scoped(async |scope| {
        scope.deploy("broken", slow_start("nonsense", json!({}))).await?;
        let broken: Caller = scope.caller("broken").await?;
        let flood = pilotlight_tests::Load::new(&broken, "/", 20.0).start();
        let good = async {
            let caller = scope.deploy("hello", hello(json!({}))).await?;
            pilotlight_tests::Load::new(&caller, "/", 20.0).run(Duration::from_secs(5)).await
        }
        .await;
        flood.stop().await?;
        good?.all_answered()
    })
    .await
}
