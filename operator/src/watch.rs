//! Watches and the stores that they fill: one watch per kind, read by every reconciliation.
//!
//! An object that does not parse is logged, counted and skipped; it never stops a watch.

use std::{
    collections::HashMap,
    fmt::Debug,
    future::ready,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod, core::v1::Service};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, Store, store, store::Writer},
        watcher::{self, Event},
    },
};
use pilotlight_crds::{Function, FunctionKey, PodTrouble, key::function_of, names, pod_trouble};
use serde::de::DeserializeOwned;
use tokio::sync;

use crate::{
    error::{NotListed, chain},
    metrics::Metrics,
};

/// What the watches know.
pub(crate) struct Stores {
    pub functions: Store<Function>,
    pub deployments: Store<Deployment>,
    pub services: Store<Service>,
    pub pods: Store<Pod>,
    listed: sync::watch::Receiver<bool>,
}

impl Stores {
    /// Stores that are being filled. Needs a Tokio runtime.
    pub(crate) fn new(
        functions: Store<Function>,
        deployments: Store<Deployment>,
        services: Store<Service>,
        pods: Store<Pod>,
    ) -> Self {
        let (sender, listed) = sync::watch::channel(false);
        let (d, s, p) = (deployments.clone(), services.clone(), pods.clone());
        // A store wakes only the last of those who wait for it, so one task waits for all of us. Not for
        // the Functions: the controller itself does that, before it reconciles anything.
        tokio::spawn(async move {
            let (d, s, p) = (d.wait_until_ready(), s.wait_until_ready(), p.wait_until_ready());
            if tokio::try_join!(d, s, p).is_ok() {
                sender.send_replace(true);
            }
        });
        Self { functions, deployments, services, pods, listed }
    }

    /// Waits until every watch has listed what there is.
    pub(crate) async fn wait_until_ready(&self) -> Result<(), NotListed> {
        self.listed.clone().wait_for(|listed| *listed).await.map(drop).map_err(|_| NotListed)
    }

    /// Whether every watch has listed what there is.
    pub(crate) fn are_ready(&self) -> bool {
        *self.listed.borrow()
    }
}

/// The streams that fill the stores; nothing arrives unless both are polled.
pub(crate) struct Watches {
    /// Functions whose spec is new.
    pub functions: stream::BoxStream<'static, Result<Function, watcher::Error>>,
    /// Functions that something happened to: to a Deployment, to a Service, or to a pod that fails.
    pub affected: stream::BoxStream<'static, ObjectRef<Function>>,
}

/// Starts to watch all that the operator needs to know.
pub(crate) fn all(client: &Client, metrics: &Arc<Metrics>) -> (Arc<Stores>, Watches) {
    let ours = || watcher::Config::default().labels(&names::all_pods_selector());
    let (functions, writer) = store();
    // The activator writes to the status all the time: only a new generation counts, and its first write.
    let new_specs =
        watch(client, watcher::Config::default(), writer, metrics, drop_managed_fields::<Function>)
            .map(Ok)
            .applied_objects()
            .predicate_filter(what_counts, kube::runtime::PredicateConfig::default());
    let (deployments, writer) = store();
    let deployment_events = watch(client, ours(), writer, metrics, drop_managed_fields::<Deployment>);
    let (services, writer) = store();
    let service_events = watch(client, ours(), writer, metrics, drop_managed_fields::<Service>);
    let (pods, writer) = store();
    let mut troubles = Troubles::default();
    let troubled = watch(client, ours(), writer, metrics, keep_status)
        .flat_map(move |event| stream::iter(troubles.changed_by(&event)));
    let affected = stream::select_all([
        deployment_events.filter_map(|event| ready(owner(&event))).boxed(),
        service_events.filter_map(|event| ready(owner(&event))).boxed(),
        troubled.boxed(),
    ]);
    let affected = affected.map(|key| ObjectRef::new(&key.name).within(&key.namespace));
    let watches = Watches { functions: new_specs.boxed(), affected: affected.boxed() };
    (Arc::new(Stores::new(functions, deployments, services, pods)), watches)
}

/// What of a Function wakes a reconciliation when it changes, as a hash.
fn what_counts(function: &Function) -> Option<u64> {
    let taken_up = function.status.as_ref().is_some_and(|status| status.replicas.is_some());
    let mut hasher = DefaultHasher::new();
    (function.metadata.generation?, taken_up).hash(&mut hasher);
    Some(hasher.finish())
}

/// A watch that fills a store, backs off on errors, and skips what it cannot read.
fn watch<K>(
    client: &Client,
    config: watcher::Config,
    writer: Writer<K>,
    metrics: &Arc<Metrics>,
    slim: fn(&mut K),
) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let metrics = Arc::clone(metrics);
    watcher::watcher(Api::<DeserializeGuard<K>>::all(client.clone()), config)
        .default_backoff()
        .filter_map(move |event| {
            ready(match event {
                Ok(event) => readable(event, &metrics).map(|event| Ok(event.modify(slim))),
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), error = chain(&error), "watch failed, trying again");
                    None
                }
            })
        })
        .reflect(writer)
        .filter_map(|event: Result<Event<K>, watcher::Error>| ready(event.ok()))
}

/// The event, if its object could be read.
fn readable<K>(event: Event<DeserializeGuard<K>>, metrics: &Metrics) -> Option<Event<K>>
where
    K: Resource<DynamicType = ()>,
{
    let read = |guard: DeserializeGuard<K>| {
        guard
            .0
            .inspect_err(|invalid| {
                metrics.unreadable(&K::kind(&()));
                let (namespace, name) = (&invalid.metadata.namespace, &invalid.metadata.name);
                tracing::warn!(kind = %K::kind(&()), ?namespace, ?name, error = invalid.error, "skipped an object that does not parse");
            })
            .ok()
    };
    Some(match event {
        Event::Apply(object) => Event::Apply(read(object)?),
        Event::Delete(object) => Event::Delete(read(object)?),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(read(object)?),
        Event::InitDone => Event::InitDone,
    })
}

fn drop_managed_fields<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Of a pod the operator reads labels and status; the rest would only take memory.
fn keep_status(pod: &mut Pod) {
    drop_managed_fields(pod);
    pod.metadata.annotations = None;
    pod.spec = None;
}

/// The Function that an object with its label belongs to.
fn owner<K: Resource>(event: &Event<K>) -> Option<FunctionKey> {
    match event {
        Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) => {
            function_of(object.meta().namespace.as_deref(), object.meta().labels.as_ref())
        }
        Event::Init | Event::InitDone => None,
    }
}

/// Notices when a pod gets into trouble or out of it. All else that happens to pods, several events
/// each time that one starts, changes nothing for the operator.
#[derive(Debug, Default)]
struct Troubles(HashMap<String, (FunctionKey, PodTrouble)>);

impl Troubles {
    /// The Functions whose pods' trouble the event changes.
    fn changed_by(&mut self, event: &Event<Pod>) -> Vec<FunctionKey> {
        match event {
            Event::Apply(pod) | Event::InitApply(pod) => self.now(pod, pod_trouble(pod)),
            Event::Delete(pod) => self.now(pod, None),
            // A pod may have gone while the watch was down: look at all that were in trouble.
            Event::Init => self.0.drain().map(|(_, (key, _))| key).collect(),
            Event::InitDone => Vec::new(),
        }
    }

    fn now(&mut self, pod: &Pod, trouble: Option<PodTrouble>) -> Vec<FunctionKey> {
        let key = function_of(pod.metadata.namespace.as_deref(), pod.metadata.labels.as_ref());
        let (Some(key), Some(uid)) = (key, pod.uid()) else { return Vec::new() };
        let before = match &trouble {
            Some(trouble) => self.0.insert(uid, (key.clone(), trouble.clone())),
            None => self.0.remove(&uid),
        };
        if before.map(|(_, trouble)| trouble) == trouble { Vec::new() } else { vec![key] }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, waiting: Option<&str>) -> Pod {
        let state = waiting.map_or(json!({"running": {}}), |reason| json!({"waiting": {"reason": reason}}));
        serde_json::from_value(json!({
            "metadata": {"name": uid, "namespace": "ns", "uid": uid, "labels": {names::FUNCTION_LABEL: "fn"}},
            "status": {"containerStatuses": [
                {"name": "function", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn only_changes_of_trouble_wake_a_function() {
        let mut troubles = Troubles::default();
        let mut woken = |event| troubles.changed_by(&event).len();
        assert_eq!(woken(Event::InitApply(pod("a", None))), 0);
        assert_eq!(woken(Event::Apply(pod("a", Some("ContainerCreating")))), 0);
        assert_eq!(woken(Event::Apply(pod("a", Some("ErrImagePull")))), 1);
        assert_eq!(woken(Event::Apply(pod("a", Some("ErrImagePull")))), 0, "the same again");
        assert_eq!(woken(Event::Apply(pod("a", Some("ImagePullBackOff")))), 1);
        assert_eq!(woken(Event::Apply(pod("a", None))), 1, "it runs");
        assert_eq!(woken(Event::Delete(pod("a", Some("Error")))), 0, "it was not known to be in trouble");
        assert_eq!(woken(Event::Apply(pod("b", Some("ErrImagePull")))), 1);
        assert_eq!(woken(Event::Delete(pod("b", None))), 1);
        assert_eq!(woken(Event::Apply(pod("c", Some("ErrImagePull")))), 1);
        assert_eq!(woken(Event::Init), 1, "whoever was in trouble is looked at again");
        assert_eq!(woken(Event::InitDone), 0);
    }

    #[test]
    fn an_unreadable_object_is_counted_and_skipped() {
        let metrics = Metrics::new().unwrap();
        let read = |value| {
            let guard: DeserializeGuard<Function> = serde_json::from_value(value).unwrap();
            readable(Event::Apply(guard), &metrics).is_some()
        };
        assert!(read(json!({"metadata": {"name": "a"}, "spec": {"image": "x"}})));
        assert!(!read(json!({"metadata": {"name": "b"}, "spec": {"port": "http"}})));
        let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
        assert!(text.contains(r#"pilotlight_operator_unreadable_objects_total{kind="Function"} 1"#));
    }
}
