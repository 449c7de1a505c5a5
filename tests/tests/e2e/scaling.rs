//! From zero, to zero, and what lies between.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use pilotlight_tests::{
    Caller, Load, Scope, await_condition, kubectl,
    objects::{hello, replicas, slow_start},
    scoped, stays,
};
use serde_json::json;

use crate::support::{END, START, Whoami, burst, expect_ok, last_cold_start, pod_of, whoami_of};

#[tokio::test(flavor = "multi_thread")]
async fn fifty_first_requests_at_zero_are_all_answered_by_one_pod() -> Result<()> {
    scoped(async |scope| {
        // So slow that all fifty have come before it listens.
        let caller = scope.deploy("hello", slow_start("3s", json!({}))).await?;
        let before = scope.pods("hello").await?;
        ensure!(before.is_empty(), "a new Function has {} pods", before.len());
        let mut pods = BTreeSet::new();
        for reply in burst(&caller.with_new_connections(), "/", 50).await {
            let reply = reply?;
            expect_ok(&reply)?;
            ensure!(reply.header("pilotlight-cold-start") == "true", "{:?}", reply.headers);
            pods.insert(pod_of(&reply)?);
        }
        ensure!(pods.len() == 1, "answered by {pods:?}");
        let made: BTreeSet<_> = scope.pod_names("hello").await?.into_iter().collect();
        ensure!(made == pods, "made {made:?}, answered by {pods:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_is_explained_phase_by_phase() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("hello", hello(json!({}))).await?;
        let reply = caller.get("/").await?;
        expect_ok(&reply)?;
        let held: f64 = reply.header("pilotlight-held-ms").parse().context("no time held")?;
        let phases = last_cold_start(scope, "hello").await?;
        let order = [
            phases.scaled,
            phases.pod_created,
            phases.scheduled,
            phases.address_known,
            phases.port_answers,
            phases.first_byte,
        ];
        let order: Vec<f64> =
            order.into_iter().collect::<Option<_>>().with_context(|| format!("{phases:?}"))?;
        // The order to scale and the pod that it makes are seen on two connections, in either order.
        ensure!(order[1..].is_sorted() && order[0] < order[4], "{phases:?}");
        let last = order[5];
        ensure!(last >= held && last <= reply.timing.end.as_secs_f64() * 1000.0, "held {held}, {phases:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_function_goes_to_zero_after_idle_after_and_not_before() -> Result<()> {
    const IDLE: Duration = Duration::from_secs(4);
    scoped(async |scope| {
        let spec = hello(json!({ "scaling": { "idleAfter": "4s" } }));
        let caller = scope.deploy("hello", spec).await?;
        let first = caller.get("/").await?;
        // From before the last request: it is quiet since the activator has answered, and not since that is known here.
        let quiet_since = Instant::now();
        expect_ok(&caller.get("/").await?)?;
        let scaled_down = await_condition(END, "replicas are 0", async || {
            let deployments = scope.deployments("hello").await?;
            ensure!(deployments.iter().map(replicas).sum::<i32>() == 0, "still replicas");
            Ok(quiet_since.elapsed())
        })
        .await?;
        ensure!(scaled_down >= IDLE, "scaled down after {scaled_down:?}");
        scope.await_pods("hello", 0, END).await?;
        let again = caller.get("/").await?;
        expect_ok(&again)?;
        ensure!(pod_of(&first)? != pod_of(&again)?, "the same pod");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_pool_is_kept_and_follows_kubectl_scale() -> Result<()> {
    scoped(async |scope| {
        let spec = hello(json!({ "scaling": { "warm": 2, "idleAfter": "1s" } }));
        let caller = scope.deploy("hello", spec).await?;
        scope.await_pods("hello", 2, START).await?;
        let warm = scope.pod_names("hello").await?;
        let reply = caller.get("/").await?;
        expect_ok(&reply)?;
        ensure!(reply.header("pilotlight-cold-start").is_empty(), "a cold start in a warm pool");
        stays(Duration::from_secs(4), "the warm pool is kept", async || {
            let now = scope.pod_names("hello").await?;
            ensure!(now == warm, "{now:?} instead of {warm:?}");
            Ok(())
        })
        .await?;
        for size in [3, 1, 0] {
            kubectl(&["scale", "fn/hello", &format!("--replicas={size}"), "-n", &scope.namespace]).await?;
            scope.await_pods("hello", size, END).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_grows_under_load_and_shrinks_after_it() -> Result<()> {
    // 60 requests a second of 200 ms each are 12 in flight: 3 pods of 5.
    const RATE: f64 = 60.0;
    scoped(async |scope| {
        let scaling = json!({ "max": 4, "idleAfter": "5s", "target": { "concurrency": 5 } });
        let caller = scope.deploy("hello", hello(json!({ "scaling": scaling }))).await?;
        let load = Load::new(&caller, "/sleep?ms=200", RATE).start();
        let grown = await_condition(START, "the function has at least 3 ready pods", async || {
            let pods = scope.pods("hello").await?;
            ensure!(
                pods.iter().filter(|pod| pilotlight_tests::objects::is_ready(pod)).count() >= 3,
                "{}",
                pods.len()
            );
            Ok(pods.len())
        })
        .await;
        let report = load.stop().await?;
        let grown = grown?;
        report.all_answered()?;
        ensure!(grown <= 4, "{grown} pods are above scaling.max");
        scope.await_pods("hello", 0, END).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_rate_target_sets_the_number_of_pods() -> Result<()> {
    scoped(async |scope| {
        let scaling = json!({ "max": 4, "idleAfter": "5s", "target": { "requestsPerSecond": 20 } });
        let caller = scope.deploy("hello", hello(json!({ "scaling": scaling }))).await?;
        // 50 a second need 3 pods of 20.
        let load = Load::new(&caller, "/", 50.0).start();
        let grown = scope.await_pods("hello", 3, START).await;
        load.stop().await?.all_answered()?;
        grown.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrency_of_one_is_never_exceeded() -> Result<()> {
    const REQUESTS: usize = 240;
    const AT_ONCE: usize = 12;
    scoped(async |scope| {
        let spec = hello(json!({ "concurrency": 1, "scaling": { "max": 3 } }));
        let caller = scope.deploy("hello", spec).await?;
        let (began, mut sent) = (Instant::now(), 0);
        let counted = loop {
            many(&caller, REQUESTS, AT_ONCE).await?;
            sent += REQUESTS as u64;
            let counted = counts(scope, &scope.pods("hello").await?).await?;
            if counted.len() > 1 {
                break counted;
            }
            ensure!(began.elapsed() < END, "one pod did it all, which shows nothing: {counted:?}");
        };
        ensure!(counted.values().all(|pod| pod.max_in_flight == 1), "{counted:?}");
        let requests: u64 = counted.values().map(|pod| pod.requests).sum();
        ensure!(requests >= sent, "pods counted {requests} of {sent}: {counted:?}");
        Ok(())
    })
    .await
}

/// Sends so many requests, of two kinds, so many at once.
async fn many(caller: &Caller, requests: usize, at_once: usize) -> Result<()> {
    let path = |number: usize| if number.is_multiple_of(4) { "/whoami" } else { "/sleep?ms=25" };
    let calls = (0..requests).map(|number| caller.get(path(number)));
    for reply in stream::iter(calls).buffer_unordered(at_once).collect::<Vec<_>>().await {
        expect_ok(&reply?)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_down_ends_no_request() -> Result<()> {
    scoped(async |scope| {
        let scaling = json!({ "max": 3, "idleAfter": "2s", "target": { "concurrency": 1 } });
        let caller = scope.deploy("hello", hello(json!({ "scaling": scaling }))).await?;
        let (long, short) = (caller.clone(), caller.clone());
        // Long enough for the others' pods to start, to be quiet, and to be gone.
        let long = tokio::spawn(async move { long.get("/sleep?ms=25000").await });
        // While one pod is busy for long, the others come and go.
        let short = tokio::spawn(async move { burst(&short, "/sleep?ms=1500", 2).await });
        for reply in short.await? {
            expect_ok(&reply?)?;
        }
        let left = scope.await_pods("hello", 1, END).await?;
        ensure!(!long.is_finished(), "they were not gone before the long request had ended");
        let reply = long.await??;
        expect_ok(&reply)?;
        ensure!(left[0].name_any() == reply.text().split(' ').next().unwrap_or_default(), "another pod");
        Ok(())
    })
    .await
}

/// What each pod has counted, the question itself included.
async fn counts(scope: &Scope, pods: &[Pod]) -> Result<BTreeMap<String, Whoami>> {
    let mut counts = BTreeMap::new();
    for pod in pods {
        counts.insert(pod.name_any(), whoami_of(scope, pod).await?);
    }
    Ok(counts)
}
