//! The watches that feed the index. One bad object is logged and skipped; an API server that is away
//! leaves what is known as it is.

use std::{collections::HashSet, fmt::Debug, sync::Arc, time::Duration};

use backon::ExponentialBuilder;
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, ExponentialBackoff},
    },
};
use pilotlight_crds::{
    Function, FunctionKey, ObservedPod, deployment_trouble,
    key::function_of,
    names::{self, REVISION_LABEL},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{Index, ObservedDeployment, ToProbe};
use crate::{metrics::Metrics, probe};

/// What becomes of objects of one kind.
pub(crate) trait Follow: Send + 'static {
    /// The kind.
    type Object: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static;
    /// What identifies an object for `delete`.
    type Id: std::hash::Hash + Eq + Clone + Send;
    /// Its name in logs and metrics.
    const KIND: &'static str;

    fn id(object: &Self::Object) -> Option<Self::Id>;
    fn apply(&self, object: Self::Object);
    fn delete(&self, id: &Self::Id);
}

#[derive(Debug)]
struct Functions(Arc<Index>);
#[derive(Debug)]
struct Pods(Arc<Index>);
#[derive(Debug)]
struct Deployments(Arc<Index>);

impl Follow for Functions {
    type Object = DeserializeGuard<Function>;
    type Id = FunctionKey;
    const KIND: &'static str = "functions";

    fn id(object: &Self::Object) -> Option<FunctionKey> {
        let meta = object.meta();
        Some(FunctionKey::new(meta.namespace.as_deref()?, meta.name.as_deref()?))
    }

    fn apply(&self, object: Self::Object) {
        match object.0 {
            Ok(function) => self.0.apply_function(&function).into_iter().for_each(start),
            // What was known of it before goes on serving.
            Err(invalid) => tracing::warn!(
                namespace = invalid.metadata.namespace,
                name = invalid.metadata.name,
                error = invalid.error,
                "a Function cannot be read"
            ),
        }
    }

    fn delete(&self, id: &FunctionKey) {
        self.0.delete_function(id);
    }
}

impl Follow for Pods {
    type Object = Pod;
    type Id = String;
    const KIND: &'static str = "pods";

    fn id(object: &Pod) -> Option<String> {
        object.metadata.uid.clone()
    }

    fn apply(&self, object: Pod) {
        if let Some(to_probe) = ObservedPod::read(&object).and_then(|pod| self.0.apply_pod(pod)) {
            start(to_probe);
        }
    }

    fn delete(&self, uid: &String) {
        self.0.delete_pod(uid);
    }
}

impl Follow for Deployments {
    type Object = Deployment;
    type Id = (String, String);
    const KIND: &'static str = "deployments";

    fn id(object: &Deployment) -> Option<(String, String)> {
        Some((object.metadata.namespace.clone()?, object.metadata.name.clone()?))
    }

    fn apply(&self, object: Deployment) {
        let Some((namespace, name)) = Self::id(&object) else { return };
        if let Some(observed) = read_deployment(&object) {
            self.0.apply_deployment(namespace, name, observed);
        }
    }

    fn delete(&self, (namespace, name): &(String, String)) {
        self.0.delete_deployment(namespace, name);
    }
}

fn read_deployment(deployment: &Deployment) -> Option<ObservedDeployment> {
    let labels = deployment.metadata.labels.as_ref();
    Some(ObservedDeployment {
        function: function_of(deployment.metadata.namespace.as_deref(), labels)?,
        revision: labels?.get(REVISION_LABEL)?.clone(),
        // The API server's own default is 1.
        replicas: u32::try_from(deployment.spec.as_ref()?.replicas.unwrap_or(1)).ok()?,
        version: deployment.metadata.resource_version.clone().unwrap_or_default(),
        trouble: deployment_trouble(deployment),
    })
}

fn start(ToProbe(function, pod): ToProbe) {
    probe::start(&function, pod);
}

/// How far the watches are: `true` once each has listed everything once.
#[derive(Clone, Debug)]
pub struct Synced(Vec<watch::Receiver<bool>>);

impl Synced {
    /// Whether every watch has listed everything once.
    pub fn all(&self) -> bool {
        self.0.iter().all(|one| *one.borrow())
    }

    /// These watches, and more.
    pub(crate) fn and(mut self, more: impl IntoIterator<Item = watch::Receiver<bool>>) -> Self {
        self.0.extend(more);
        self
    }

    /// Waits until every watch has listed everything once.
    pub async fn wait(mut self) {
        for one in &mut self.0 {
            // A watch ends only with the process.
            let _ = one.wait_for(|synced| *synced).await;
        }
    }
}

/// Follows Functions, pods and Deployments of the whole cluster until the process ends.
pub fn start_watches(client: &Client, index: &Arc<Index>, metrics: &Metrics) -> Synced {
    let ours = watcher::Config::default().labels(&names::all_pods_selector());
    let all = watcher::Config::default();
    let function_api = Api::<DeserializeGuard<Function>>::all(client.clone());
    Synced(vec![
        follow(function_api, all, Functions(Arc::clone(index)), metrics),
        follow(Api::all(client.clone()), ours.clone(), Pods(Arc::clone(index)), metrics),
        follow(Api::all(client.clone()), ours, Deployments(Arc::clone(index)), metrics),
    ])
}

/// Cold starts wait for the watches: after an outage of the API server they are back within a second, where
/// kube's own pauses grow to half a minute. Jitter keeps several activators apart.
fn backoff() -> ExponentialBackoff {
    let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
    let pauses = ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest);
    pauses.without_max_times().with_jitter().into()
}

pub(crate) fn follow<F: Follow>(
    api: Api<F::Object>,
    config: watcher::Config,
    sink: F,
    metrics: &Metrics,
) -> watch::Receiver<bool> {
    let (synced, receiver) = watch::channel(false);
    let errors = metrics.watch_errors.with_label_values(&[F::KIND]);
    tokio::spawn(async move {
        let events = kube::runtime::watcher(api, config).backoff(backoff());
        pin_mut!(events);
        let mut known = Known::default();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => known.take(&sink, event, &synced),
                Err(error) => {
                    errors.inc();
                    tracing::warn!(kind = F::KIND, %error, "a watch broke off, and is begun again");
                }
            }
        }
    });
    receiver
}

/// The objects of a watch, so that those are noticed that vanished while it was broken.
struct Known<Id> {
    ids: HashSet<Id>,
    listed: HashSet<Id>,
}

impl<Id> Default for Known<Id> {
    fn default() -> Self {
        Self { ids: HashSet::new(), listed: HashSet::new() }
    }
}

impl<Id: std::hash::Hash + Eq + Clone> Known<Id> {
    fn take<F: Follow<Id = Id>>(&mut self, sink: &F, event: Event<F::Object>, synced: &watch::Sender<bool>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.extend(F::id(&object));
                sink.apply(object);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.ids.difference(&listed).for_each(|id| sink.delete(id));
                self.ids = listed;
                synced.send_replace(true);
            }
            Event::Apply(object) => {
                self.ids.extend(F::id(&object));
                sink.apply(object);
            }
            Event::Delete(object) => {
                if let Some(id) = F::id(&object) {
                    self.ids.remove(&id);
                    sink.delete(&id);
                }
            }
        }
    }
}
