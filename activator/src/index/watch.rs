//! The watches that feed the index.

use std::sync::Arc;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, Client, Resource, core::DeserializeGuard, runtime::watcher};
use pilotlight_crds::{
    Function, FunctionKey, ObservedPod, deployment_trouble,
    key::function_of,
    names::{self, REVISION_LABEL},
};

use super::{Index, ToProbe};
use crate::{
    function::ObservedDeployment,
    metrics::Metrics,
    probe,
    watch::{Follow, Synced, follow},
};

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
