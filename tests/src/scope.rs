//! A namespace for one test, and who may run beside whom.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event, Namespace, Pod, Service},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use pilotlight_crds::{Function, names};
use serde_json::{Value, json};
use tokio::sync::RwLock;

use crate::{Caller, Cluster, NAMESPACE, await_condition, faults::await_calm, objects};

/// Who applies the objects of tests.
const MANAGER: &str = "pilotlight-tests";
/// A Function is routable once the operator has made three objects; seconds are for a busy machine.
const ROUTABLE: Duration = Duration::from_secs(20);
/// Kubernetes deletes the objects of a namespace one by one, at 20 a second.
const GONE: Duration = Duration::from_secs(180);

/// Ordinary tests share the cluster; one that disturbs it has it alone.
static QUIET: RwLock<()> = RwLock::const_new(());

/// A namespace for one test.
#[derive(Debug)]
pub struct Scope {
    /// The cluster.
    pub cluster: Cluster,
    /// The namespace.
    pub namespace: String,
}

/// Runs a test in a namespace of its own, beside others. The namespace is deleted at the end, also after
/// a panic; after a failure, what was in it is printed first.
///
/// # Errors
/// Those of the test.
pub async fn scoped(test: impl AsyncFnOnce(&Scope) -> Result<()>) -> Result<()> {
    let _shared = QUIET.read().await;
    in_namespace(test).await
}

/// Like [`scoped`], for a test that disturbs all functions: no other runs beside it, and what it did is over
/// when the next one begins.
///
/// # Errors
/// Those of the test, or when the cluster is not as it was.
pub async fn disruptive(test: impl AsyncFnOnce(&Scope) -> Result<()>) -> Result<()> {
    let _alone = QUIET.write().await;
    // The pods of earlier tests take their time to end.
    await_calm().await?;
    let outcome = in_namespace(test).await;
    outcome.and(await_calm().await)
}

async fn in_namespace(test: impl AsyncFnOnce(&Scope) -> Result<()>) -> Result<()> {
    let scope = Scope::new().await?;
    let outcome = AssertUnwindSafe(test(&scope)).catch_unwind().await;
    if !matches!(outcome, Ok(Ok(()))) {
        scope.explain().await;
    }
    let deleted = scope.delete().await;
    match outcome {
        Ok(outcome) => outcome.and(deleted),
        Err(panic) => resume_unwind(panic),
    }
}

/// How the names of this process' namespaces begin.
pub(crate) fn prefix() -> String {
    format!("e2e-{:x}-", std::process::id())
}

impl Scope {
    /// Makes a namespace that nobody else uses. Pod Security `restricted` is enforced in it, as careful
    /// administrators do.
    ///
    /// # Errors
    /// When the cluster does not allow it.
    pub async fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let cluster = Cluster::connect().await?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("{}{count}", prefix());
        let object = serde_json::from_value(json!({
            "metadata": {
                "name": namespace,
                "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
            },
        }))?;
        let api: Api<Namespace> = Api::all(cluster.client.clone());
        api.create(&PostParams::default(), &object).await.context("cannot make a namespace")?;
        Ok(Self { cluster, namespace })
    }

    /// Asks for the namespace to be deleted; nobody waits for it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete(&self) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.cluster.client.clone());
        api.delete(&self.namespace, &DeleteParams::background()).await?;
        Ok(())
    }

    /// Deletes the namespace and waits until it is gone, so that what comes next is not disturbed.
    ///
    /// # Errors
    /// When the API server refuses, or something does not go.
    pub async fn delete_and_wait(&self) -> Result<()> {
        self.delete().await?;
        let api: Api<Namespace> = Api::all(self.cluster.client.clone());
        await_condition(GONE, "the namespace is gone", async || {
            let left = api.get_opt(&self.namespace).await?;
            ensure!(left.is_none(), "{:?}", left.and_then(|namespace| namespace.status));
            Ok(())
        })
        .await
    }

    /// Prints what there is, and what Pilotlight says, for whoever reads of a failure.
    async fn explain(&self) {
        let namespace = self.namespace.as_str();
        for arguments in [
            ["get", "functions,deployments,services,pods", "-o", "wide", "-n", namespace].as_slice(),
            &[
                "get",
                "functions",
                "-o",
                "jsonpath={range .items[*]}{.metadata.name}: {.status}{\"\\n\"}{end}",
                "-n",
                namespace,
            ],
            &["get", "events", "--sort-by=.metadata.creationTimestamp", "-n", namespace],
            &["logs", "-l", "app.kubernetes.io/name=pilotlight", "--prefix", "--tail=40", "-n", NAMESPACE],
        ] {
            let shown = crate::kubectl(arguments).await;
            eprintln!(
                "--- kubectl {}\n{}",
                arguments.join(" "),
                shown.unwrap_or_else(|error| format!("{error:#}"))
            );
        }
    }

    /// The API of a kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        self.cluster.api(&self.namespace)
    }

    /// Applies a Function.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply(&self, name: &str, spec: Value) -> Result<Function> {
        let manifest = objects::function(name, spec);
        let params = PatchParams::apply(MANAGER).force();
        self.api()
            .patch(name, &params, &Patch::Apply(&manifest))
            .await
            .with_context(|| format!("applying {name}"))
    }

    /// Applies a Function and waits until it can be called at any activator.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn deploy(&self, name: &str, spec: Value) -> Result<Caller> {
        self.apply(name, spec).await?;
        let function = self.routable(name).await?;
        self.known(&function).await?;
        self.caller(name).await
    }

    /// Waits until every activator knows which revision of a Function serves: each hears of it by itself, and not
    /// before the operator has said so.
    async fn known(&self, function: &Function) -> Result<()> {
        let name = format!("{}/{}", self.namespace, function.name_any());
        let serving = objects::revision(function);
        await_condition(ROUTABLE, &format!("all activators know {name}"), async || {
            for page in self.cluster.admin("activator", "/debug/functions").await? {
                let functions: Vec<Value> = serde_json::from_str(&page)?;
                let known = functions.iter().find(|known| known["function"] == name.as_str());
                ensure!(
                    known.is_some_and(|known| known["serving"].as_str() == serving.as_deref()),
                    "{known:?}"
                );
            }
            Ok(())
        })
        .await
    }

    /// Waits until the operator has done what the present spec asks for.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn routable(&self, name: &str) -> Result<Function> {
        await_condition(ROUTABLE, &format!("{name} is routable"), async || {
            let function = self.function(name).await?;
            let routable = objects::condition(&function, "Routable");
            ensure!(
                routable.is_some_and(
                    |c| c.status == "True" && c.observed_generation == function.metadata.generation
                ),
                "{routable:?}"
            );
            Ok(function)
        })
        .await
    }

    /// The Function as it is.
    ///
    /// # Errors
    /// When there is none.
    pub async fn function(&self, name: &str) -> Result<Function> {
        Ok(self.api::<Function>().get(name).await?)
    }

    /// Calls a Function at the URL in its status.
    ///
    /// # Errors
    /// When it has none.
    pub async fn caller(&self, name: &str) -> Result<Caller> {
        let status = self.function(name).await?.status.unwrap_or_default();
        let url: http::Uri = status.url.context("the status has no url")?.parse()?;
        Caller::new(&self.cluster.activator, url.host().context("the url has no host")?)
    }

    /// Pods of a Function that are not about to end.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self, name: &str) -> Result<Vec<Pod>> {
        let pods = self.all_pods(name).await?;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    async fn all_pods(&self, name: &str) -> Result<Vec<Pod>> {
        let params = ListParams::default().labels(&names::pods_selector(name));
        Ok(self.api::<Pod>().list(&params).await?.items)
    }

    /// Waits until a Function has just so many ready pods, and none besides: one that ends may still
    /// answer a request that was under way to it.
    ///
    /// # Errors
    /// When that does not come within `limit`.
    pub async fn await_pods(&self, name: &str, count: usize, limit: Duration) -> Result<Vec<Pod>> {
        await_condition(limit, &format!("{name} has {count} ready pods"), async || {
            let pods = self.all_pods(name).await?;
            let stays = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && objects::is_ready(pod);
            let ready = pods.iter().filter(stays).count();
            ensure!(
                pods.len() == count && ready == count,
                "{ready} of {} pods are ready and stay",
                pods.len()
            );
            Ok(pods)
        })
        .await
    }

    /// Deployments of a Function.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn deployments(&self, name: &str) -> Result<Vec<Deployment>> {
        let params = ListParams::default().labels(&names::pods_selector(name));
        Ok(self.api::<Deployment>().list(&params).await?.items)
    }

    /// The Service of a Function.
    ///
    /// # Errors
    /// When there is none.
    pub async fn service(&self, name: &str) -> Result<Service> {
        Ok(self.api::<Service>().get(name).await?)
    }

    /// Waits until an Event about a Function has this reason.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn await_event(&self, function: &str, reasons: &[&str], limit: Duration) -> Result<Event> {
        let fields = format!("involvedObject.kind=Function,involvedObject.name={function}");
        let params = ListParams::default().fields(&fields);
        await_condition(limit, &format!("an Event about {function} says {reasons:?}"), async || {
            let events = self.api::<Event>().list(&params).await?.items;
            let seen: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
            let matching =
                |event: &Event| event.reason.as_deref().is_some_and(|reason| reasons.contains(&reason));
            events.into_iter().find(matching).with_context(|| format!("reasons so far: {seen:?}"))
        })
        .await
    }

    /// Waits until a condition of a Function is as said; returns its reason.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn await_status(
        &self,
        name: &str,
        type_: &str,
        status: &str,
        limit: Duration,
    ) -> Result<String> {
        await_condition(limit, &format!("{name} is {type_}={status}"), async || {
            let function = self.function(name).await?;
            let condition = objects::condition(&function, type_).cloned();
            let found = condition
                .filter(|c| c.status == status && c.observed_generation == function.metadata.generation);
            found
                .map(|c| c.reason)
                .with_context(|| format!("{:?}", function.status.map(|status| status.conditions)))
        })
        .await
    }

    /// Names of pods, in order.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pod_names(&self, name: &str) -> Result<Vec<String>> {
        let mut names: Vec<_> = self.pods(name).await?.iter().map(ResourceExt::name_any).collect();
        names.sort();
        Ok(names)
    }
}
