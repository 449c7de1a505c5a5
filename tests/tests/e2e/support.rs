//! What several modules of tests need.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use pilotlight_crds::ColdStartPhases;
use pilotlight_tests::{CallError, Caller, Reply, Scope, await_condition};
use serde_json::Value;

/// A pod starts in about half a second on an idle machine; this is for one that has two cores and runs
/// the tests as well.
pub(crate) const START: Duration = Duration::from_secs(20);
/// What Pilotlight promises within seconds, on such a machine.
pub(crate) const SECONDS: Duration = Duration::from_secs(10);
/// A pod that is told to end pauses for 2 s, and its namespace and network are taken down after it.
pub(crate) const END: Duration = Duration::from_secs(30);

/// What a pod of `hello` says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Whoami {
    /// Its name.
    pub(crate) pod: String,
    /// The most requests that it ever had in flight.
    pub(crate) max_in_flight: u64,
    /// Requests that it has had.
    pub(crate) requests: u64,
    /// The session's id as it reached the function.
    pub(crate) session: Option<String>,
    /// Names of the headers that reached the function.
    pub(crate) headers: Vec<String>,
}

impl Whoami {
    /// Reads the answer to `GET /whoami`.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).with_context(|| format!("not from hello: {text}"))?;
        let headers = value["headers"].as_array().into_iter().flatten();
        Ok(Self {
            pod: value["hostname"].as_str().context("no hostname")?.to_owned(),
            max_in_flight: value["maxInFlight"].as_u64().context("no maxInFlight")?,
            requests: value["requests"].as_u64().context("no requests")?,
            session: value["session"].as_str().map(str::to_owned),
            headers: headers.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        })
    }
}

/// Asks one pod who it is, past Pilotlight.
pub(crate) async fn whoami_of(scope: &Scope, pod: &Pod) -> Result<Whoami> {
    const PORT: u16 = 8080;
    Whoami::read(&scope.cluster.get_from_pod(&scope.namespace, &pod.name_any(), PORT, "/whoami").await?)
}

/// `count` GETs at once.
pub(crate) async fn burst(caller: &Caller, path: &str, count: usize) -> Vec<Result<Reply, CallError>> {
    join_all((0..count).map(|_| caller.get(path))).await
}

/// Answers by status and reason, for comparing with what was expected.
pub(crate) fn tally(replies: &[Result<Reply, CallError>]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for reply in replies {
        let line = match reply {
            Ok(reply) => format!("{} {}", reply.status.as_u16(), reply.reason()).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        *tally.entry(line).or_default() += 1;
    }
    tally
}

/// Makes sure that the function answered.
pub(crate) fn expect_ok(reply: &Reply) -> Result<()> {
    ensure!(reply.status == 200, "{}", reply.describe());
    Ok(())
}

/// Makes sure of an answer of Pilotlight's own, its form included; returns its document.
pub(crate) fn expect_problem(reply: &Reply, status: u16, reason: &str) -> Result<Value> {
    ensure!((reply.status.as_u16(), reply.reason()) == (status, reason), "{}", reply.describe());
    ensure!(reply.header("content-type") == "application/problem+json", "{:?}", reply.headers);
    let problem = reply.json()?;
    ensure!(problem["status"] == status && problem["reason"] == reason, "{problem}");
    ensure!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    Ok(problem)
}

/// The name of the pod that answered `GET /`.
pub(crate) fn pod_of(reply: &Reply) -> Result<String> {
    let text = reply.text();
    Ok(text.trim().strip_prefix("Hello from ").with_context(|| format!("not from hello: {text}"))?.to_owned())
}

/// The phases of the last cold start, once the status has them.
pub(crate) async fn last_cold_start(scope: &Scope, name: &str) -> Result<ColdStartPhases> {
    await_condition(SECONDS, "the status shows the cold start", async || {
        let status = scope.function(name).await?.status.unwrap_or_default();
        Ok(status.last_cold_start.context("no cold start yet")?.milliseconds)
    })
    .await
}

/// An activator's address for callers.
pub(crate) fn address(activator: &Pod) -> Result<String> {
    let ip = activator.status.as_ref().and_then(|status| status.pod_ip.as_deref()).context("no address")?;
    Ok(format!("{ip}:8080"))
}

/// The same host, always at the same activator: bounds of what waits are those of one.
pub(crate) async fn at_one_activator(scope: &Scope, caller: &Caller) -> Result<Caller> {
    let activators = scope.cluster.component_pods("activator").await?;
    Ok(caller.at(&address(activators.first().context("no activator")?)?))
}
