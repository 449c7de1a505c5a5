//! Three ways from no pod to the first byte of an answer, in turn, each with nothing else running.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use pilotlight_crds::ColdStartPhases;
use pilotlight_tests::{
    Caller, Scope, await_condition, image,
    objects::{hello, is_ready},
};
use serde_json::{Value, json};

/// A cold start of `hello` takes less than a second; this bounds one that went wrong.
const START: Duration = Duration::from_secs(30);
/// A pod that is told to end pauses for 2 s, and is then taken down.
const END: Duration = Duration::from_secs(60);
/// Between two tries to reach a pod by hand.
const TRY_EVERY: Duration = Duration::from_millis(5);
/// A try that is not answered by then is given up: a lost SYN would be sent again only after 1 s.
const TRY: Duration = Duration::from_millis(100);
const PORT: u16 = 8080;

const FUNCTION: &str = "function";
const LEAN: &str = "lean";
const DEFAULT: &str = "default";

/// Milliseconds to the first byte, of each way, and what the activator says of its own.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    pub(crate) function: Vec<f64>,
    pub(crate) lean: Vec<f64>,
    pub(crate) default: Vec<f64>,
    pub(crate) phases: Vec<ColdStartPhases>,
}

/// Measures `rounds` starts of each way.
pub(crate) async fn measure(scope: &Scope, rounds: u32) -> Result<Starts> {
    let idle = json!({ "idleAfter": "1s" });
    let caller = scope.deploy(FUNCTION, hello(json!({ "scaling": idle }))).await?;
    scope.api().create(&PostParams::default(), &deployment(LEAN, lean())?).await?;
    scope.api().create(&PostParams::default(), &deployment(DEFAULT, default())?).await?;
    let mut starts = Starts::default();
    for round in 0..rounds {
        // In another order each time, so that none always follows the same other.
        for turn in 0..3 {
            await_quiet(scope).await?;
            match (round + turn) % 3 {
                0 => through_pilotlight(scope, &caller, &mut starts).await.context(FUNCTION)?,
                1 => starts.lean.push(by_hand(scope, LEAN, has_address).await.context(LEAN)?),
                _ => starts.default.push(by_hand(scope, DEFAULT, is_ready).await.context(DEFAULT)?),
            }
        }
        let last = |times: &[f64]| times.last().copied().unwrap_or_default();
        println!(
            "round {:>3}: function {:>6.1} ms, lean {:>6.1} ms, default {:>6.1} ms",
            round + 1,
            last(&starts.function),
            last(&starts.lean),
            last(&starts.default)
        );
    }
    Ok(starts)
}

/// Waits until no pod is left, not even one that ends: taking it down would disturb the next start.
async fn await_quiet(scope: &Scope) -> Result<()> {
    await_condition(END, "no pod is left", async || {
        let pods = scope.api::<Pod>().list(&ListParams::default()).await?.items;
        ensure!(pods.is_empty(), "{} pods", pods.len());
        Ok(())
    })
    .await
}

/// A request to the Function, as a user sends it.
async fn through_pilotlight(scope: &Scope, caller: &Caller, starts: &mut Starts) -> Result<()> {
    let reply = caller.with_new_connections().get("/").await?;
    ensure!(reply.status == 200, "{}", reply.describe());
    ensure!(reply.header("pilotlight-cold-start") == "true", "it was no cold start");
    let text = reply.text();
    let pod = text.trim().strip_prefix("Hello from ").context("not from hello")?;
    let phases = await_condition(START, "the status shows the cold start", async || {
        let status = scope.function(FUNCTION).await?.status.unwrap_or_default();
        let cold = status.last_cold_start.context("no cold start")?;
        ensure!(cold.pod == pod, "it is of {}", cold.pod);
        Ok(cold.milliseconds)
    })
    .await?;
    starts.function.push(reply.timing.head.as_secs_f64() * 1000.0);
    starts.phases.push(phases);
    Ok(())
}

/// The number of replicas patched by hand, a watch until the pod is `fit`, and tries until it answers.
async fn by_hand(scope: &Scope, name: &str, fit: fn(&Pod) -> bool) -> Result<f64> {
    let pods: Api<Pod> = scope.api();
    let selector = format!("app={name}");
    let version = pods.list(&ListParams::default().labels(&selector)).await?.metadata.resource_version;
    let watch = pods.watch(&WatchParams::default().labels(&selector), &version.unwrap_or_default()).await?;
    let mut watch = watch.boxed();
    let began = Instant::now();
    let started = async {
        scale(scope, name, 1).await?;
        let address = loop {
            match watch.next().await.context("the watch ended")?? {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) if fit(&pod) => break address(&pod),
                WatchEvent::Error(error) => bail!("{error:?}"),
                _ => {}
            }
        };
        first_byte(&address.context("no address")?, began).await
    };
    let took = tokio::time::timeout(START, started).await.context("took too long")??;
    scale(scope, name, 0).await?;
    Ok(took.as_secs_f64() * 1000.0)
}

async fn first_byte(address: &str, began: Instant) -> Result<Duration> {
    let caller = Caller::new(&format!("{address}:{PORT}"), "pod")?.with_new_connections().with_deadline(TRY);
    loop {
        let tried = began.elapsed();
        match caller.get("/").await {
            Ok(reply) if reply.status == 200 => return Ok(tried + reply.timing.head),
            Ok(reply) => bail!("{}", reply.describe()),
            Err(_) => tokio::time::sleep(TRY_EVERY).await,
        }
    }
}

async fn scale(scope: &Scope, name: &str, replicas: u32) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    scope.api::<Deployment>().patch_scale(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

fn address(pod: &Pod) -> Option<String> {
    pod.status.as_ref()?.pod_ip.clone()
}

fn has_address(pod: &Pod) -> bool {
    address(pod).is_some()
}

fn deployment(name: &str, pod: Value) -> Result<Deployment> {
    let labels = json!({ "app": name });
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    }))?)
}

/// The container that a Function's pod has.
fn container() -> Value {
    json!({
        "name": "function",
        "image": image("hello"),
        "env": [{ "name": "PORT", "value": PORT.to_string() }],
        "ports": [{ "containerPort": PORT }],
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
    })
}

fn security() -> Value {
    json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } })
}

/// The leanest pod that Kubernetes can start: what a Function's pod is.
fn lean() -> Value {
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": security(),
        "containers": [container()],
    })
}

/// The pod that people write: a token, Service variables, a readiness probe.
fn default() -> Value {
    let mut container = container();
    container["readinessProbe"] = json!({ "httpGet": { "path": "/", "port": PORT }, "periodSeconds": 1 });
    json!({ "securityContext": security(), "containers": [container] })
}
