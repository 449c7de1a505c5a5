//! Bursts, rollouts and outages of whole machines: each alone in the cluster, and none loses a request that
//! could be saved.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use pilotlight_crds::names::FUNCTION_LABEL;
use pilotlight_tests::{
    CallError, Caller, Cluster, Load, LoadReport, Reply, Scope, await_condition, disruptive,
    faults::{kill, machines_are_ours, restart, with_activators, without_api_server, without_node},
    image,
    objects::{hello, replicas, slow_start},
};
use serde_json::{Value, json};

use crate::support::{SECONDS, START, address, burst, expect_ok, expect_problem, tally};

/// Many pods on a machine with two cores that runs the cluster and the tests as well.
const MANY_STARTS: Duration = Duration::from_secs(120);
/// Requests go on being sent for so long after a fault, to see that it is over.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// `timeouts.firstByte` of the function whose pods are cut off.
const FIRST_BYTE: Duration = Duration::from_secs(2);

fn all_ok(replies: &[Result<Reply, CallError>]) -> Result<()> {
    let tally = tally(replies);
    ensure!(tally.keys().all(|line| line == "200"), "{tally:?}");
    Ok(())
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

async fn activators(cluster: &Cluster) -> Result<Vec<Pod>> {
    cluster.component_pods("activator").await
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_from_zero_on_twenty_functions() -> Result<()> {
    const FUNCTIONS: usize = 20;
    const REQUESTS: usize = 300;
    disruptive(async |scope| {
        // What is asked is whether any is lost, and not how fast the machine starts forty pods.
        let hold = json!({ "timeout": format!("{}s", MANY_STARTS.as_secs()) });
        let spec = hello(json!({ "hold": hold, "scaling": { "max": 2, "idleAfter": "60s" } }));
        let names = (0..FUNCTIONS).map(|number| format!("hello-{number}"));
        let callers = try_join_all(names.map(|name| deploy(scope, name, spec.clone()))).await?;
        let began = Instant::now();
        let bursts = callers.iter().map(|caller| {
            let caller = caller.with_deadline(MANY_STARTS);
            async move { burst(&caller, "/", REQUESTS).await }
        });
        for replies in join_all(bursts).await {
            all_ok(&replies)?;
        }
        println!("{FUNCTIONS} bursts of {REQUESTS} from zero were answered in {:?}", began.elapsed());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_of_the_activators_loses_no_held_request_and_no_probe() -> Result<()> {
    const HELD: usize = 1_000;
    const PROBES: f64 = 20_000.0;
    const PER_SECOND: f64 = 400.0;
    disruptive(async |scope| {
        let probed = scope.deploy("probed", hello(json!({ "scaling": { "warm": 2 } }))).await?;
        scope.await_pods("probed", 2, START).await?;
        let slow = scope.deploy("slow", slow_start("20s", json!({ "hold": { "timeout": "90s" } }))).await?;
        let period = Duration::from_secs_f64(PROBES / PER_SECOND);
        let probes = tokio::spawn(Load::new(&probed, "/", PER_SECOND).run(period));
        let caller = slow.with_deadline(MANY_STARTS);
        let held = tokio::spawn(async move { burst(&caller, "/", HELD).await });
        held_in(&scope.cluster, "slow", HELD as u64).await?;
        println!("the activators were restarted in {:?}", restart(&scope.cluster, "activator").await?);
        let report = probes.await??;
        println!("probes: {report}");
        all_ok(&held.await?)?;
        report.all_answered()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_activators_is_killed() -> Result<()> {
    // Six requests of 100 ms at any time, for 20 slots.
    const PER_SECOND: f64 = 20.0;
    if !machines_are_ours() {
        return Ok(());
    }
    disruptive(async |scope| {
        let spec = hello(json!({ "concurrency": 10, "scaling": { "warm": 2, "max": 2 } }));
        let caller = scope.deploy("hello", spec).await?;
        scope.await_pods("hello", 2, START).await?;
        with_activators(&scope.cluster, 3, async || {
            let activators = activators(&scope.cluster).await?;
            ensure!(activators.len() == 3, "{} activators", activators.len());
            // A load for each, so that it is known what was in flight where.
            let loads = activators
                .iter()
                .map(|pod| Ok(Load::new(&caller.at(&address(pod)?), "/sleep?ms=100", PER_SECOND).start()))
                .collect::<Result<Vec<_>>>()?;
            tokio::time::sleep(AFTERWARDS).await;
            let killed = loads[0].elapsed();
            kill(&activators[0]).await?;
            tokio::time::sleep(AFTERWARDS).await;
            let mut reports = Vec::new();
            for (pod, load) in activators.iter().zip(loads) {
                let report = load.stop().await?;
                println!("{}: {report}", pod.name_any());
                reports.push(report);
            }
            for report in &reports[1..] {
                report.all_answered().context("it was not killed")?;
            }
            only_in_flight_is_lost(&reports[0], killed)?;
            // Whoever comes through the Service is served, by whichever is left, once all nodes have heard of it.
            await_condition(SECONDS, "the Service answers", async || expect_ok(&caller.get("/").await?)).await
        })
        .await
    })
    .await
}

/// Makes sure that only requests failed that were in flight when the activator died: later than the order to kill
/// it, but, since the kernel takes its time, no later than the first request that found nobody there. Those may
/// be sent again by any client.
fn only_in_flight_is_lost(report: &LoadReport, killed: Duration) -> Result<()> {
    let (lost, unsent): (Vec<_>, Vec<_>) = report.bad.iter().partition(|bad| bad.left);
    let dead = unsent.iter().map(|bad| bad.ended).min().context("nobody found it dead")?;
    let wrong: Vec<_> = lost.iter().filter(|bad| bad.ended < killed || bad.sent > dead).collect();
    ensure!(wrong.is_empty(), "killed at {killed:?}, dead at {dead:?}, and not in flight then: {wrong:?}");
    println!("{} requests were in flight there, and were lost", lost.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_for_a_minute() -> Result<()> {
    const AWAY: Duration = Duration::from_secs(60);
    const RECOVERY: Duration = Duration::from_secs(2);
    if !machines_are_ours() {
        return Ok(());
    }
    disruptive(async |scope| {
        let warm = scope.deploy("warm", hello(json!({ "scaling": { "warm": 1 } }))).await?;
        scope.await_pods("warm", 1, START).await?;
        let spec = hello(json!({ "hold": { "timeout": "5s" }, "scaling": { "idleAfter": "1s" } }));
        let cold = scope.deploy("cold", spec).await?;
        let load = Load::new(&warm, "/", 40.0).start();
        let ends = without_api_server(async || {
            let ends = Instant::now() + AWAY;
            while Instant::now() < ends {
                let problem = cold.get("/").await?;
                let problem = expect_problem(&problem, 504, "hold-timeout")?;
                let detail = problem["detail"].as_str().unwrap_or_default();
                ensure!(detail.contains("API server"), "the reason is not told: {detail}");
            }
            Ok(())
        })
        .await;
        let back = Instant::now();
        // Whoever asks now is served: the order goes out, and what follows is up to Kubernetes.
        let first = cold.with_deadline(MANY_STARTS);
        let asked = tokio::spawn(async move { first.get("/").await });
        let ordered = await_condition(SECONDS, "the order arrives", async || {
            let deployments = scope.deployments("cold").await?;
            ensure!(deployments.iter().any(|deployment| replicas(deployment) == 1), "no replica");
            Ok(back.elapsed())
        })
        .await;
        let report = load.stop().await?;
        println!("warm traffic without the API server: {report}");
        ends?;
        report.all_answered()?;
        let ordered = ordered?;
        println!("ordered {ordered:?} after the API server was back; {}", asked.await??.describe());
        ensure!(ordered < RECOVERY, "the first order came after {ordered:?}");
        await_condition(MANY_STARTS, "cold starts work again", async || expect_ok(&cold.get("/").await?))
            .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn activators_are_on_different_nodes_even_if_one_is_fuller() -> Result<()> {
    if !machines_are_ours() {
        return Ok(());
    }
    disruptive(async |scope| {
        // By what is free alone, both would go to the other node.
        let ballast = json!({ "name": "function", "image": image("hello"), "resources": { "requests": { "cpu": "1" } } });
        let spec = json!({ "containers": [ballast], "nodeSelector": { "kubernetes.io/hostname": "n1" } });
        let spec = json!({ "template": { "spec": spec }, "scaling": { "warm": 1 } });
        scope.deploy("ballast", spec).await?;
        scope.await_pods("ballast", 1, START).await?;
        restart(&scope.cluster, "activator").await?;
        let activators = activators(&scope.cluster).await?;
        let nodes: BTreeSet<_> = activators.iter().map(node).collect();
        ensure!(nodes.len() == activators.len().min(2), "{} are on {nodes:?}", activators.len());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off() -> Result<()> {
    if !machines_are_ours() {
        return Ok(());
    }
    disruptive(async |scope| {
        let timeouts = json!({ "firstByte": format!("{}s", FIRST_BYTE.as_secs()) });
        let spec = json!({
            "template": spread_over_nodes(),
            "timeouts": timeouts,
            "scaling": { "warm": 4, "max": 4 },
        });
        let caller = scope.deploy("hello", spec).await?;
        let pods = scope.await_pods("hello", 4, MANY_STARTS).await?;
        let lost = pods.iter().filter(|pod| node(pod) == "n2").count();
        ensure!(lost == 2, "{lost} of {} pods are on n2", pods.len());
        // The one on this side: which activator a Service chooses is up to kube-proxy.
        with_activators(&scope.cluster, 2, async || cut_off(scope, &caller).await).await
    })
    .await
}

/// A pod of `hello` whose like are as many on each node.
fn spread_over_nodes() -> Value {
    let selector = json!({ "matchLabels": { FUNCTION_LABEL: "hello" } });
    let spread = json!({
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": selector,
    });
    let container = json!({ "name": "function", "image": image("hello") });
    json!({ "spec": { "containers": [container], "topologySpreadConstraints": [spread] } })
}

/// An activator on `name`. After an earlier scale-down all may be on other nodes: a rollout spreads them again.
async fn activator_on(name: &str, cluster: &Cluster) -> Result<Pod> {
    let find = async || anyhow::Ok(activators(cluster).await?.into_iter().find(|pod| node(pod) == name));
    if let Some(pod) = find().await? {
        return Ok(pod);
    }
    restart(cluster, "activator").await?;
    find().await?.with_context(|| format!("no activator on {name}"))
}

async fn cut_off(scope: &Scope, caller: &Caller) -> Result<()> {
    let caller = caller.at(&address(&activator_on("n1", &scope.cluster).await?)?);
    let load = Load::new(&caller, "/", 40.0).start();
    tokio::time::sleep(AFTERWARDS).await;
    let cut = without_node("n2", async || {
        let cut = load.elapsed();
        tokio::time::sleep(AFTERWARDS * 2).await;
        Ok(cut)
    })
    .await?;
    let report = load.stop().await?;
    println!("with a node cut off at {cut:?}: {report}");
    // What was in flight there when it was cut off is overdue after `firstByte`; nothing fails later.
    let late = report.bad_after(cut + FIRST_BYTE + Duration::from_secs(1));
    ensure!(late == 0, "{late} requests failed long after the node was cut off: {report}");
    Ok(())
}

/// Waits until `count` requests for a function are held, in all activators together.
async fn held_in(cluster: &Cluster, name: &str, count: u64) -> Result<()> {
    await_condition(START, &format!("{count} requests are held"), async || {
        let functions = cluster.debug_functions().await?;
        let suffix = format!("/{name}");
        let held: u64 = functions
            .iter()
            .filter(|function| function["function"].as_str().is_some_and(|key| key.ends_with(&suffix)))
            .filter_map(|function| function["held"].as_u64())
            .sum();
        ensure!(held >= count, "{held}");
        Ok(())
    })
    .await
}

async fn deploy(scope: &Scope, name: String, spec: Value) -> Result<Caller> {
    scope.deploy(&name, spec).await
}
