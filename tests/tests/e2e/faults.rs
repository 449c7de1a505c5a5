//! Restarts and outages, one at a time and with nothing else going on.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use http::Method;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use pilotlight_tests::{
    Caller, Load, Scope, disruptive,
    faults::{restart, stall_redis, without_redis},
    objects::{example, hello, revision},
    request,
};
use serde_json::{Value, json};

use crate::sessions::{StateApi, call, cart_spec, fill_cart, id_of};
use crate::support::{END, START, expect_ok, expect_problem};

/// What is promised is 150 ms; a machine with two cores that also runs the cluster gets more.
const FAST: Duration = Duration::from_secs(1);

/// Uids of a function's children, which a new operator must take over as they are.
async fn children(scope: &Scope, name: &str) -> Result<Vec<String>> {
    let deployments = scope.deployments(name).await?.into_iter().map(|d: Deployment| d.metadata.uid);
    let service: Service = scope.service(name).await?;
    deployments.chain([service.metadata.uid]).map(|uid| uid.context("no uid")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_operator_takes_over_what_it_finds_and_disturbs_nobody() -> Result<()> {
    disruptive(async |scope| {
        let spec = hello(json!({ "scaling": { "warm": 1 } }));
        let caller = scope.deploy("warm", spec).await?;
        let cold = scope.deploy("cold", hello(json!({ "scaling": { "idleAfter": "2s" } }))).await?;
        scope.await_pods("warm", 1, START).await?;
        let (before, pods) = (children(scope, "warm").await?, scope.pod_names("warm").await?);
        let old = revision(&scope.function("warm").await?);
        let load = Load::new(&caller, "/", 40.0).start();
        let restarted = restart(&scope.cluster, "operator").await;
        // From zero needs no operator, and a new Function is seen to once there is a leader again.
        let afterwards = async {
            expect_ok(&cold.get("/").await?)?;
            expect_ok(&scope.deploy("new", hello(json!({}))).await?.get("/").await?)
        }
        .await;
        load.stop().await?.all_answered()?;
        println!("the operator was restarted in {:?}", restarted?);
        afterwards?;
        ensure!(children(scope, "warm").await? == before, "children were replaced");
        ensure!(scope.pod_names("warm").await? == pods, "pods were replaced");
        let now = scope.function("warm").await?;
        ensure!(
            revision(&now) == old && scope.deployments("warm").await?.len() == 1,
            "a new revision was made"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_activator_loses_no_request() -> Result<()> {
    disruptive(async |scope| {
        let spec = hello(json!({ "scaling": { "warm": 1, "idleAfter": "5s" } }));
        let caller = scope.deploy("hello", spec).await?;
        let cold = scope.deploy("cold", hello(json!({ "scaling": { "idleAfter": "1s" } }))).await?;
        scope.await_pods("hello", 1, START).await?;
        let pods = scope.pod_names("hello").await?;
        let quick = Load::new(&caller, "/", 40.0).start();
        let slow = Load::new(&caller, "/sleep?ms=2500", 4.0).start();
        let new_connections = Load::new(&caller.with_new_connections(), "/", 10.0).start();
        // Every few seconds, so that each finds the function at zero.
        let from_zero = Load::new(&cold.with_new_connections(), "/", 0.15).start();
        let restarted = restart(&scope.cluster, "activator").await;
        for (kind, load) in
            [("quick", quick), ("slow", slow), ("new connections", new_connections), ("from zero", from_zero)]
        {
            let report = load.stop().await?;
            println!("{kind}: {report}");
            report.all_answered().context(kind)?;
        }
        println!("the activator was restarted in {:?}", restarted?);
        ensure!(scope.pod_names("hello").await? == pods, "the warm pool was replaced");
        // The new one knows what the old one knew: it still goes to zero, and comes from there.
        scope.await_pods("cold", 0, END).await?;
        expect_ok(&cold.get("/").await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_stateless_traffic_flows_and_sessions_fail_fast() -> Result<()> {
    disruptive(async |scope| {
        let stateless = scope.deploy("hello", hello(json!({ "scaling": { "warm": 1 } }))).await?;
        let affine =
            scope.deploy("affine", hello(json!({ "session": {}, "scaling": { "warm": 1 } }))).await?;
        // Warm: what is timed below is Redis' absence, and not a cold start.
        let cart =
            scope.deploy("cart", example("cart", json!({ "session": {}, "scaling": { "warm": 1 } }))).await?;
        for name in ["hello", "affine", "cart"] {
            scope.await_pods(name, 1, START).await?;
        }
        let cookie = fill_cart(&cart, None, "tea").await?;
        let known = affine.get("/").await?.cookie().context("no cookie")?;
        let api = StateApi::of(scope, "cart").await?;
        let load = Load::new(&stateless, "/", 40.0).start();
        let outcome = without_redis(&scope.cluster, async || {
            fails_fast(&api, id_of(&cookie)?).await?;
            let refused = call(&cart, Some(&cookie), request(Method::GET, "/cart", "")).await?;
            ensure!(refused.status == 503 && refused.timing.end < FAST * 5, "{}", refused.describe());
            // A function that only prefers a pod is served by any.
            for cookie in [None, Some(known.as_str())] {
                let reply = call(&affine, cookie, request(Method::GET, "/", "")).await?;
                expect_ok(&reply)?;
                ensure!(reply.timing.end < FAST, "{}", reply.describe());
            }
            Ok(())
        })
        .await;
        let report = load.stop().await?;
        println!("stateless traffic without Redis: {report}");
        report.all_answered()?;
        outcome?;
        // Everything works again without a restart.
        fill_cart_again(&cart, &cookie).await
    })
    .await
}

/// Reads and writes are refused in time, and say why.
async fn fails_fast(api: &StateApi, id: &str) -> Result<()> {
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        for method in [Method::GET, Method::PUT] {
            let reply = api.session(method, id, "{}").await?;
            let problem = expect_problem(&reply, 503, "state-unavailable")?;
            ensure!(!reply.header("retry-after").is_empty(), "{problem}");
            slowest = slowest.max(reply.timing.end - reply.timing.connected);
        }
    }
    println!("without Redis the state API answers 503 within {slowest:?}");
    ensure!(slowest < FAST, "the slowest answer took {slowest:?}");
    Ok(())
}

async fn fill_cart_again(cart: &Caller, cookie: &str) -> Result<()> {
    pilotlight_tests::await_condition(START, "carts work again", async || {
        fill_cart(cart, Some(cookie), "milk").await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stalls_loses_nothing_that_was_acknowledged() -> Result<()> {
    const STALL: Duration = Duration::from_secs(3);
    // Many in each phase, and few enough that they are no load.
    const WRITE_EVERY: Duration = Duration::from_millis(10);
    disruptive(async |scope| {
        let caller = scope.deploy("cart", cart_spec()).await?;
        let stateless = scope.deploy("hello", hello(json!({ "scaling": { "warm": 1 } }))).await?;
        scope.await_pods("hello", 1, START).await?;
        let cookie = fill_cart(&caller, None, "tea").await?;
        let (id, api) = (id_of(&cookie)?, StateApi::of(scope, "cart").await?);
        let load = Load::new(&stateless, "/", 40.0).start();
        let (began, mut refused, mut slowest, mut acknowledged) = (Instant::now(), 0, Duration::ZERO, 0);
        // One write after the other, from before the stall until one is taken after it: what is read later must
        // be the last one acknowledged.
        let (mut number, mut ticks) = (0, tokio::time::interval(WRITE_EVERY));
        let told = Cell::new(None);
        let stall = async {
            stall_redis(&scope.cluster, STALL).await?;
            told.set(Some(Instant::now()));
            Ok(())
        };
        let writes = async {
            let stalled = || told.get().is_none_or(|told| told.elapsed() < STALL);
            while stalled() || refused == 0 || acknowledged != number {
                ensure!(
                    began.elapsed() < STALL + START,
                    "{refused} refused of {number}, {acknowledged} taken"
                );
                ticks.tick().await;
                number += 1;
                let reply = api.session(Method::PUT, id, &json!({ "number": number }).to_string()).await?;
                slowest = slowest.max(reply.timing.end - reply.timing.connected);
                match reply.status.as_u16() {
                    201 | 204 => acknowledged = number,
                    503 => refused += 1,
                    _ => anyhow::bail!("{}", reply.describe()),
                }
            }
            Ok(())
        };
        let (stalled, written) = tokio::join!(stall, writes);
        println!("{refused} writes refused of {number}, the slowest answer after {slowest:?}");
        load.stop().await?.all_answered()?;
        stalled.and(written)?;
        ensure!(slowest < FAST, "the slowest answer after {slowest:?}");
        let read: Value = api.session(Method::GET, id, "").await?.json()?;
        ensure!(read["number"] == acknowledged, "{acknowledged} was acknowledged, {read} is there");
        Ok(())
    })
    .await
}
