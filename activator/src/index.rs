//! START HERE (what we know of the cluster): Functions, their pods, their Deployments; and the route table made of it.
//!
//! Three watches feed it, in any order: a pod may be seen before its Function. So the facts are kept by
//! themselves, and a Function that appears is given those that are known.
//!
//! - [`watch`]: where the facts come from
//! - [`claims`]: which pod has an address
//! - [`routes`]: host and path to function

mod claims;
mod routes;
pub mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use pilotlight_crds::{Function, FunctionKey, ObservedPod};

use self::claims::Claims;
pub use self::routes::{Claim, Domains, RouteTable, Routed, SharedRoutes};
use crate::{
    function::{FunctionConfig, FunctionState, ObservedDeployment, PodRef, Process},
    metrics::Metrics,
};

/// A pod that has just got an address, and has to be probed.
#[derive(Debug)]
pub struct ToProbe(pub Arc<FunctionState>, pub PodRef);

#[derive(Debug, Default)]
struct Facts {
    functions: HashMap<FunctionKey, (Claim, Arc<FunctionState>)>,
    /// By uid.
    pods: HashMap<String, ObservedPod>,
    claims: Claims,
    /// By namespace and name.
    deployments: HashMap<(String, String), ObservedDeployment>,
}

/// What we know of the cluster.
#[derive(Debug)]
pub struct Index {
    domains: Domains,
    metrics: Metrics,
    process: Arc<Process>,
    routes: Arc<SharedRoutes<FunctionState>>,
    facts: Mutex<Facts>,
}

impl Index {
    /// An index that knows nothing yet.
    pub fn new(domains: Domains, metrics: Metrics, process: Arc<Process>) -> Self {
        let routes = Arc::new(ArcSwap::from_pointee(RouteTable::default()));
        Self { domains, metrics, process, routes, facts: Mutex::default() }
    }

    /// The route table, always the newest.
    pub fn routes(&self) -> Arc<SharedRoutes<FunctionState>> {
        Arc::clone(&self.routes)
    }

    /// What the functions of this process share.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// All functions.
    pub fn functions(&self) -> Vec<Arc<FunctionState>> {
        self.lock().functions.values().map(|(_, function)| Arc::clone(function)).collect()
    }

    /// One function.
    pub fn function(&self, key: &FunctionKey) -> Option<Arc<FunctionState>> {
        self.lock().functions.get(key).map(|(_, function)| Arc::clone(function))
    }

    /// The process ends: nobody waits for a slot any longer, and nobody will.
    pub fn turn_away(&self) {
        self.process.set_ending();
        self.functions().iter().for_each(|function| function.turn_away());
    }

    /// A Function is there, or has changed.
    pub fn apply_function(&self, function: &Function) -> Vec<ToProbe> {
        let (Some(config), Some(claim)) = (FunctionConfig::read(function), Claim::read(function)) else {
            return Vec::new();
        };
        let last_cold = function.status.as_ref().and_then(|status| status.last_cold_start.as_ref());
        let now = Instant::now();
        let mut facts = self.lock();
        match facts.functions.get_mut(&config.key) {
            Some((known, state)) => {
                let state = Arc::clone(state);
                let moved = std::mem::replace(known, claim.clone()) != claim;
                if moved {
                    self.publish(&facts);
                }
                drop(facts);
                state.remember(last_cold);
                state.configure(config, now);
                Vec::new()
            }
            None => {
                let key = config.key.clone();
                let metrics = self.metrics.function(&key);
                let state = FunctionState::new(config, metrics, Arc::clone(&self.process), now);
                state.remember(last_cold);
                facts.functions.insert(key.clone(), (claim, Arc::clone(&state)));
                self.publish(&facts);
                introduce(&facts, &key, &state, now)
            }
        }
    }

    /// A Function is no more.
    pub fn delete_function(&self, key: &FunctionKey) {
        let mut facts = self.lock();
        let Some((_, state)) = facts.functions.remove(key) else { return };
        self.publish(&facts);
        drop(facts);
        state.delete();
        self.metrics.forget(key);
    }

    /// A pod is there, or has changed. A pod that lives where a newer one lives is as good as ended.
    pub fn apply_pod(&self, mut pod: ObservedPod) -> Option<ToProbe> {
        let mut facts = self.lock();
        let Facts { claims, pods, .. } = &mut *facts;
        if let Some(known) = pods.get(&pod.uid).filter(|known| known.address != pod.address) {
            claims.forget(known);
        }
        let loser = claims.see(&pod);
        pod.ending |= loser.as_ref() == Some(&pod.uid);
        facts.pods.insert(pod.uid.clone(), pod.clone());
        let displaced = loser.filter(|uid| *uid != pod.uid).and_then(|uid| {
            let other = facts.pods.get_mut(&uid)?;
            other.ending = true;
            Some(other.clone())
        });
        let state_of =
            |pod: &ObservedPod| facts.functions.get(&pod.function).map(|(_, state)| Arc::clone(state));
        let (state, displaced) = (state_of(&pod), displaced.map(|other| (state_of(&other), other)));
        drop(facts);
        let now = Instant::now();
        if let Some((Some(state), other)) = displaced {
            tracing::info!(pod = other.name, by = pod.name, "a pod's address has gone to another");
            state.apply_pod(other, now);
        }
        let state = state?;
        let to_probe = state.apply_pod(pod, now)?;
        Some(ToProbe(state, to_probe))
    }

    /// A pod is no more.
    pub fn delete_pod(&self, uid: &str) {
        let mut facts = self.lock();
        let Some(pod) = facts.pods.remove(uid) else { return };
        facts.claims.forget(&pod);
        let state = facts.functions.get(&pod.function).map(|(_, state)| Arc::clone(state));
        drop(facts);
        if let Some(state) = state {
            state.delete_pod(uid, Instant::now());
        }
    }

    /// A Deployment is there, or has changed.
    pub fn apply_deployment(&self, namespace: String, name: String, deployment: ObservedDeployment) {
        let mut facts = self.lock();
        let state = facts.functions.get(&deployment.function).map(|(_, state)| Arc::clone(state));
        facts.deployments.insert((namespace, name), deployment.clone());
        drop(facts);
        if let Some(state) = state {
            state.apply_deployment(&deployment, Instant::now());
        }
    }

    /// A Deployment is no more.
    pub fn delete_deployment(&self, namespace: &str, name: &str) {
        let mut facts = self.lock();
        let Some(gone) = facts.deployments.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        let state = facts.functions.get(&gone.function).map(|(_, state)| Arc::clone(state));
        drop(facts);
        if let Some(state) = state {
            state.delete_deployment(&gone.revision);
        }
    }

    /// Makes and publishes the route table.
    fn publish(&self, facts: &Facts) {
        let claims = facts.functions.values().map(|(claim, state)| (claim.clone(), Arc::clone(state)));
        self.routes.store(Arc::new(RouteTable::build(claims, &self.domains)));
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a new Function the facts that came before it.
fn introduce(facts: &Facts, key: &FunctionKey, state: &Arc<FunctionState>, now: Instant) -> Vec<ToProbe> {
    for deployment in facts.deployments.values().filter(|deployment| deployment.function == *key) {
        state.apply_deployment(deployment, now);
    }
    let pods = facts.pods.values().filter(|pod| pod.function == *key).cloned();
    pods.filter_map(|pod| Some(ToProbe(Arc::clone(state), state.apply_pod(pod, now)?))).collect()
}
