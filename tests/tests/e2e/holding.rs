//! Requests that wait: how many, for how long, and what they are told.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use pilotlight_tests::{await_condition, objects::hello, objects::slow_start, scoped};
use serde_json::json;

use crate::support::{SECONDS, at_one_activator, burst, expect_ok, expect_problem, last_cold_start, tally};

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_may_wait_are_told_so_at_once() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("slow", slow_start("3s", json!({ "hold": { "requests": 5 } }))).await?;
        let caller = at_one_activator(scope, &caller).await?;
        let replies = burst(&caller, "/", 12).await;
        let expected = BTreeMap::from([("200".to_owned(), 5), ("503 hold-requests-exceeded".to_owned(), 7)]);
        ensure!(tally(&replies) == expected, "{:?}", tally(&replies));
        for reply in replies.into_iter().flatten().filter(|reply| reply.status == 503) {
            let problem = expect_problem(&reply, 503, "hold-requests-exceeded")?;
            ensure!(problem["reached_pod"] == false && reply.header("retry-after") == "1", "{problem}");
            ensure!(reply.timing.end < Duration::from_secs(1), "told after {:?}", reply.timing.end);
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn more_bytes_than_may_wait_are_told_so_at_once() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("slow", slow_start("2s", json!({ "hold": { "bytes": "64Ki" } }))).await?;
        let caller = at_one_activator(scope, &caller).await?;
        let large = || pilotlight_tests::request(http::Method::POST, "/echo", vec![b'x'; 40 * 1024]);
        let (first, second) = (caller.clone(), caller.clone());
        let (first, second) = tokio::join!(first.send(large()), second.send(large()));
        let replies = [first, second];
        let expected = BTreeMap::from([("200".to_owned(), 1), ("503 hold-bytes-exceeded".to_owned(), 1)]);
        ensure!(tally(&replies) == expected, "{:?}", tally(&replies));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waited_in_vain_is_told_so_in_time() -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(2);
    scoped(async |scope| {
        let caller = scope.deploy("slow", slow_start("60s", json!({ "hold": { "timeout": "2s" } }))).await?;
        let reply = caller.get("/").await?;
        let problem = expect_problem(&reply, 504, "hold-timeout")?;
        ensure!(problem["reached_pod"] == false && reply.header("retry-after") == "1", "{problem}");
        let waited = reply.timing.end;
        ensure!(waited >= TIMEOUT && waited < TIMEOUT + Duration::from_secs(1), "waited for {waited:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_starter_answers_as_soon_as_it_listens() -> Result<()> {
    const DELAY: Duration = Duration::from_secs(2);
    /// The kubelet cuts the time of a start to seconds.
    const CUT: Duration = Duration::from_secs(1);
    /// For a machine with two cores that runs the cluster and other tests as well.
    const AT_ONCE: Duration = Duration::from_secs(1);
    scoped(async |scope| {
        let caller = scope.deploy("slow", slow_start("2s", json!({}))).await?;
        expect_ok(&caller.get("/").await?)?;
        let answered = SystemTime::now();
        // Not from when the pod's address is known: that may be long before its program runs, or after it.
        let pods = scope.pods("slow").await?;
        let since_start = answered.duration_since(started(&pods).context("it does not run")?)?;
        let phases = last_cold_start(scope, "slow").await?;
        println!("answered {since_start:?} after the start of a program that listens after 2 s: {phases:?}");
        ensure!((DELAY..DELAY + CUT + AT_ONCE).contains(&since_start), "{since_start:?}: {phases:?}");
        let [Some(answers), Some(first_byte)] = [phases.port_answers, phases.first_byte] else {
            anyhow::bail!("{phases:?}")
        };
        ensure!(first_byte - answers < AT_ONCE.as_secs_f64() * 1000.0, "{phases:?}");
        Ok(())
    })
    .await
}

/// When the program of the only pod was started.
fn started(pods: &[Pod]) -> Option<SystemTime> {
    let [pod] = pods else { return None };
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    Some(container.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gives_up_leaves_no_trace() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("slow", slow_start("4s", json!({ "hold": { "requests": 3 } }))).await?;
        let impatient = caller.with_deadline(Duration::from_millis(500)).with_new_connections();
        for reply in burst(&impatient, "/", 3).await {
            ensure!(reply.is_err(), "{reply:?}");
        }
        let key = format!("{}/slow", scope.namespace);
        await_condition(SECONDS, "nothing is held for those who went", async || {
            let mut functions = scope.cluster.debug_functions().await?;
            functions.retain(|function| function["function"] == key.as_str());
            ensure!(functions.iter().all(|slow| slow["held"] == 0), "{functions:?}");
            Ok(())
        })
        .await?;
        let replies = burst(&caller, "/", 3).await;
        ensure!(tally(&replies) == BTreeMap::from([("200".to_owned(), 3)]), "{:?}", tally(&replies));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_beyond_the_limit_waits_in_order_and_is_answered() -> Result<()> {
    scoped(async |scope| {
        let spec = hello(json!({ "concurrency": 2, "scaling": { "max": 1 } }));
        let caller = scope.deploy("hello", spec).await?;
        let replies = burst(&caller, "/sleep?ms=50", 40).await;
        ensure!(tally(&replies) == BTreeMap::from([("200".to_owned(), 40)]), "{:?}", tally(&replies));
        Ok(())
    })
    .await
}
