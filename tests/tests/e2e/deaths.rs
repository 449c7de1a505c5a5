//! Pods that are killed, run out of memory, or take requests and never answer: what was in flight there may
//! be lost if it cannot be repeated, and nothing else.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use pilotlight_tests::{
    Caller, Load, Scope, await_condition,
    faults::{container, kill, machines_are_ours},
    objects::hello,
    request, scoped,
};
use serde_json::json;

use crate::support::{END, START, burst, expect_ok, expect_problem, pod_of};

/// The code of a container that was ended by SIGKILL: 128 and its number.
const SIGKILLED: i32 = 137;

/// The pod of `pods` that answered a request.
fn answered<'a>(pods: &'a [Pod], name: &str) -> Result<&'a Pod> {
    pods.iter().find(|pod| pod.name_any() == name).with_context(|| format!("{name} is none of the pods"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pod_loses_no_request_that_can_be_repeated() -> Result<()> {
    if !machines_are_ours() {
        return Ok(());
    }
    scoped(async |scope| {
        let caller = scope.deploy("hello", hello(json!({ "scaling": { "warm": 2 } }))).await?;
        let pods = scope.await_pods("hello", 2, START).await?;
        // About two in flight in each pod at any time.
        let load = Load::new(&caller, "/sleep?ms=100", 40.0).start();
        let victim = answered(&pods, &pod_of(&caller.get("/").await?)?)?;
        kill(victim).await?;
        await_condition(START, "the container was started again", async || {
            let pod = scope.api::<Pod>().get(&victim.name_any()).await?;
            ensure!(restarts(&pod) > 0, "no restart so far");
            Ok(())
        })
        .await?;
        load.stop().await?.all_answered()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_killed_pod_may_have_done_is_not_repeated() -> Result<()> {
    if !machines_are_ours() {
        return Ok(());
    }
    scoped(async |scope| {
        let caller = scope.deploy("hello", hello(json!({ "scaling": { "warm": 1 } }))).await?;
        let pods = scope.await_pods("hello", 1, START).await?;
        let post = caller.clone();
        let posted =
            tokio::spawn(async move { post.send(request(Method::POST, "/sleep?ms=30000", "")).await });
        busy(scope, 1).await?;
        kill(&pods[0]).await?;
        let reply = posted.await??;
        let problem = expect_problem(&reply, 502, "pod-broke-off")?;
        ensure!(problem["reached_pod"] == true, "{problem}");
        // The next request is held until the container serves again.
        expect_ok(&caller.get("/").await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_out_of_memory_costs_the_request_that_took_it() -> Result<()> {
    scoped(async |scope| {
        let memory = json!({ "limits": { "memory": "64Mi" }, "requests": { "memory": "16Mi" } });
        let spec = hello(json!({ "resources": memory, "scaling": { "warm": 2 } }));
        let caller = scope.deploy("hello", spec).await?;
        scope.await_pods("hello", 2, START).await?;
        let load = Load::new(&caller, "/", 20.0).start();
        let greedy = caller.send(request(Method::POST, "/allocate?mib=256&ms=1000", "")).await?;
        let problem = expect_problem(&greedy, 502, "pod-broke-off")?;
        ensure!(problem["reached_pod"] == true, "{problem}");
        await_condition(START, "the kubelet says that it was killed", async || {
            let pods = scope.pods("hello").await?;
            // The runtime does not always hear of the lack of memory before it hears of the end: then it says `Error`.
            ensure!(pods.iter().any(|pod| last_end(pod) == Some(SIGKILLED)), "{:?}", ends(&pods));
            Ok(())
        })
        .await?;
        load.stop().await?.all_answered()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_never_answers_is_told_of_in_time() -> Result<()> {
    if !machines_are_ours() {
        return Ok(());
    }
    scoped(async |scope| {
        let spec = hello(json!({ "timeouts": { "firstByte": "2s" }, "scaling": { "warm": 1, "max": 1 } }));
        let caller = scope.deploy("hello", spec).await?;
        let pods = scope.await_pods("hello", 1, START).await?;
        // Its port goes on accepting: the kernel does that by itself.
        container(&pods[0], &["pause"]).await?;
        let reply = caller.get("/").await;
        container(&pods[0], &["resume"]).await?;
        let problem = expect_problem(&reply?, 504, "first-byte-timeout")?;
        ensure!(problem["reached_pod"] == true, "{problem}");
        expect_ok(&caller.get("/").await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_never_answers_is_set_aside_until_it_does() -> Result<()> {
    if !machines_are_ours() {
        return Ok(());
    }
    scoped(async |scope| {
        let scaling = json!({ "warm": 2, "max": 2 });
        let timeouts = json!({ "firstByte": "2s" });
        let spec = hello(json!({ "concurrency": 2, "timeouts": timeouts, "scaling": scaling }));
        let caller = scope.deploy("hello", spec).await?;
        let pods = scope.await_pods("hello", 2, START).await?;
        container(&pods[0], &["pause"]).await?;
        let answered = all_answered_by_another(scope, &caller).await;
        container(&pods[0], &["resume"]).await?;
        answered?;
        await_condition(END, "the pod is back", async || {
            ensure!(sum(scope, "set_aside").await? == 0, "it is not");
            Ok(())
        })
        .await?;
        expect_ok(&caller.get("/").await?)
    })
    .await
}

/// Each request is answered, at first by a repetition, while one of two pods hangs.
async fn all_answered_by_another(scope: &Scope, caller: &Caller) -> Result<()> {
    let began = Instant::now();
    while sum(scope, "set_aside").await? == 0 {
        ensure!(began.elapsed() < START, "the pod is not set aside");
        // More than the other pod has slots: idle activators may all prefer the same one of two.
        for reply in burst(caller, "/sleep?ms=100", 3).await {
            expect_ok(&reply?)?;
        }
    }
    // With several activators each finds out by itself.
    for _ in 0..20 {
        expect_ok(&caller.get("/").await?)?;
    }
    Ok(())
}

/// Waits until the function has `count` requests in flight.
async fn busy(scope: &Scope, count: u64) -> Result<()> {
    await_condition(END, &format!("{count} in flight"), async || {
        let in_flight = sum(scope, "in_flight").await?;
        ensure!(in_flight >= count, "{in_flight}");
        Ok(())
    })
    .await
}

/// A number of the function `hello`, of all activators together.
async fn sum(scope: &Scope, what: &str) -> Result<u64> {
    let key = format!("{}/hello", scope.namespace);
    let functions = scope.cluster.debug_functions().await?;
    let of_hello = functions.iter().filter(|function| function["function"] == key.as_str());
    Ok(of_hello.filter_map(|function| function[what].as_u64()).sum())
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).sum()
}

/// With which code the container of a pod ended the last time.
fn last_end(pod: &Pod) -> Option<i32> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let states = [container.last_state.as_ref(), container.state.as_ref()];
    states.into_iter().flatten().find_map(|state| Some(state.terminated.as_ref()?.exit_code))
}

fn ends(pods: &[Pod]) -> Vec<Option<i32>> {
    pods.iter().map(last_end).collect()
}
