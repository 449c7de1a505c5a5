//! Requests that wait: how many, for how long, and what they are told.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
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
    const DELAY_MS: f64 = 2000.0;
    // The pod's address is known a little before or after its program runs.
    const SPREAD_MS: f64 = 1000.0;
    scoped(async |scope| {
        let caller = scope.deploy("slow", slow_start("2s", json!({}))).await?;
        expect_ok(&caller.get("/").await?)?;
        let phases = last_cold_start(scope, "slow").await?;
        println!("a start of 2 s: {phases:?}");
        let [Some(address), Some(answers), Some(first_byte)] =
            [phases.address_known, phases.port_answers, phases.first_byte]
        else {
            anyhow::bail!("{phases:?}")
        };
        ensure!((answers - address - DELAY_MS).abs() < SPREAD_MS, "{phases:?}");
        ensure!(first_byte - answers < 250.0, "{phases:?}");
        Ok(())
    })
    .await
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
            let functions = scope.cluster.debug_functions().await?;
            let slow = functions.iter().find(|function| function["function"] == key.as_str());
            ensure!(slow.is_some_and(|slow| slow["held"] == 0), "{slow:?}");
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
