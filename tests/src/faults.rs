//! Restarts and outages of Pilotlight's own parts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{Cluster, NAMESPACE, await_condition, kubectl, machinery, scope};

/// A restarted activator first serves for 5 s more, then waits up to 60 s for requests in flight.
const ROLLOUT: Duration = Duration::from_secs(90);
/// After the API server was away, a kubelet's watch of its node is back within a minute, for so long it pauses; only
/// then it sees that it has to say that the node is ready.
const CALM: Duration = Duration::from_secs(180);
const COMPONENTS: [&str; 3] = ["operator", "activator", "redis"];
const ACTIVATOR: &str = "pilotlight-activator";
const REDIS: &str = "pilotlight-redis";

/// Restarts a component as `kubectl rollout restart` does, and waits until only new pods are left.
///
/// # Errors
/// When the new pods do not come, or the old ones do not go.
pub async fn restart(cluster: &Cluster, component: &str) -> Result<Duration> {
    let began = Instant::now();
    let old: Vec<_> = cluster.component_pods(component).await?.iter().map(ResourceExt::name_any).collect();
    let deployments: Api<Deployment> = cluster.api(NAMESPACE);
    deployments.restart(&format!("pilotlight-{component}")).await?;
    await_rollout(cluster, component).await?;
    await_condition(ROLLOUT, &format!("the old pods of {component} are gone"), async || {
        let pods: Api<Pod> = cluster.api(NAMESPACE);
        let labels = format!("app.kubernetes.io/component={component}");
        let there = pods.list(&ListParams::default().labels(&labels)).await?;
        let left: Vec<_> =
            there.iter().map(ResourceExt::name_any).filter(|name| old.contains(name)).collect();
        ensure!(left.is_empty(), "still there: {left:?}");
        Ok(())
    })
    .await?;
    Ok(began.elapsed())
}

/// Waits until all replicas of a component are of the present template, and ready.
///
/// # Errors
/// When that does not come.
pub async fn await_rollout(cluster: &Cluster, component: &str) -> Result<()> {
    let deployments: Api<Deployment> = cluster.api(NAMESPACE);
    await_condition(ROLLOUT, &format!("{component} is rolled out"), async || {
        let deployment = deployments.get(&format!("pilotlight-{component}")).await?;
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let current = status.observed_generation >= deployment.metadata.generation
            && [status.replicas, status.updated_replicas, status.available_replicas] == [Some(wanted); 3];
        ensure!(current, "{status:?}");
        Ok(())
    })
    .await
}

/// Waits until nothing goes on of what tests did: all nodes are ready, Pilotlight has the pods that it should have
/// and no others, and tests have none.
///
/// # Errors
/// When that does not come.
pub async fn await_calm() -> Result<()> {
    let cluster = Cluster::connect().await?;
    for component in COMPONENTS {
        await_rollout(&cluster, component).await?;
    }
    await_condition(CALM, "the cluster is calm", async || {
        let all = ListParams::default();
        let left = Api::<Pod>::all(cluster.client.clone()).list(&all).await?;
        let left: Vec<_> = left.iter().filter(|pod| is_left(pod)).map(ResourceExt::name_any).collect();
        ensure!(left.is_empty(), "there still are {left:?}");
        let nodes = Api::<Node>::all(cluster.client.clone()).list(&all).await?;
        let away: Vec<_> = nodes.iter().filter(|node| !is_ready(node)).map(ResourceExt::name_any).collect();
        ensure!(away.is_empty(), "nodes that are not ready: {away:?}");
        Ok(())
    })
    .await
}

/// Whether a pod is a test's, or one of Pilotlight's that is about to end.
fn is_left(pod: &Pod) -> bool {
    let namespace = pod.namespace().unwrap_or_default();
    let ends = pod.metadata.deletion_timestamp.is_some();
    namespace.starts_with(&scope::prefix()) || namespace == NAMESPACE && ends
}

fn is_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Takes Redis away for as long as `during` takes; it is back afterwards, whatever came of that.
///
/// # Errors
/// Those of `during`, or when Redis does not go or come back.
pub async fn without_redis(cluster: &Cluster, during: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    scale_redis(cluster, 0).await?;
    let outcome = during().await;
    scale_redis(cluster, 1).await?;
    outcome
}

async fn scale_redis(cluster: &Cluster, replicas: usize) -> Result<()> {
    let deployments: Api<Deployment> = cluster.api(NAMESPACE);
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    deployments.patch_scale(REDIS, &PatchParams::default(), &patch).await?;
    await_condition(ROLLOUT, &format!("Redis has {replicas} ready pods"), async || {
        let pods: Api<Pod> = cluster.api(NAMESPACE);
        let there = pods.list(&ListParams::default().labels("app.kubernetes.io/component=redis")).await?;
        let ready = there.iter().filter(|pod| crate::objects::is_ready(pod)).count();
        ensure!(
            there.items.len() == replicas && ready == replicas,
            "{ready} of {} are ready",
            there.items.len()
        );
        Ok(())
    })
    .await
}

/// Makes Redis take commands and answer none for `pause`: what a stalled disk or a long script looks like.
///
/// # Errors
/// When Redis cannot be told.
pub async fn stall_redis(cluster: &Cluster, pause: Duration) -> Result<()> {
    let secret = cluster.api::<Secret>(NAMESPACE).get(REDIS).await?;
    let password =
        secret.data.and_then(|mut data| data.remove("password")).context("Redis has no password")?;
    let password = String::from_utf8(password.0)?;
    let pod = cluster.component_pods("redis").await?.first().context("Redis has no pod")?.name_any();
    let millis = pause.as_millis().to_string();
    kubectl(&[
        "exec",
        "-n",
        NAMESPACE,
        &pod,
        "--",
        "redis-cli",
        "--no-auth-warning",
        "-a",
        &password,
        "CLIENT",
        "PAUSE",
        &millis,
        "ALL",
    ])
    .await
    .map(drop)
}

/// Whether the cluster's machines may be disturbed; says so if not.
pub fn machines_are_ours() -> bool {
    let ours = std::env::var_os("PILOTLIGHT_XTASK").is_some();
    if !ours {
        println!("not run: only in a cluster of `cargo xtask` may machines and the API server be disturbed");
    }
    ours
}

/// Does something to the container of a pod as its node's runtime can: `kill -s SIGKILL`, `pause`, `resume`.
///
/// # Errors
/// When the pod has no container, or the runtime refuses.
pub async fn container(pod: &Pod, task: &[&str]) -> Result<()> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).context("no node")?;
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    let id = statuses.into_iter().flatten().find_map(|container| container.container_id.as_deref());
    let id = id.and_then(|id| id.strip_prefix("containerd://")).context("no container")?;
    let line = [&["exec", node, "--", "ctr", "--namespace", "k8s.io", "tasks"], task, &[id]].concat();
    machinery(&line).await.map(drop)
}

/// Kills the container of a pod: no farewell, no grace.
///
/// # Errors
/// When the runtime refuses.
pub async fn kill(pod: &Pod) -> Result<()> {
    container(pod, &["kill", "--signal", "SIGKILL"]).await
}

/// Takes the API server away for as long as `during` takes; it is back, and ready, afterwards.
///
/// # Errors
/// Those of `during`, or when the API server does not go or come back.
pub async fn without_api_server<T>(during: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    machinery(&["stop-api"]).await?;
    let outcome = during().await;
    machinery(&["start-api"]).await?;
    outcome
}

/// Cuts a node off from all others for as long as `during` takes.
///
/// # Errors
/// Those of `during`, or when the node cannot be cut off or joined again.
pub async fn without_node<T>(node: &str, during: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    machinery(&["partition", node]).await?;
    let outcome = during().await;
    machinery(&["heal", node]).await?;
    outcome
}

/// Runs an activator Deployment of `count` replicas for as long as `during` takes.
///
/// # Errors
/// Those of `during`, or when the replicas do not come.
pub async fn with_activators<T>(
    cluster: &Cluster,
    count: i32,
    during: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let deployments: Api<Deployment> = cluster.api(NAMESPACE);
    let before = deployments.get(ACTIVATOR).await?.spec.and_then(|spec| spec.replicas).unwrap_or(1);
    scale_activator(cluster, count).await?;
    let outcome = during().await;
    scale_activator(cluster, before).await?;
    outcome
}

async fn scale_activator(cluster: &Cluster, replicas: i32) -> Result<()> {
    let deployments: Api<Deployment> = cluster.api(NAMESPACE);
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    deployments.patch_scale(ACTIVATOR, &PatchParams::default(), &patch).await?;
    await_rollout(cluster, "activator").await
}
