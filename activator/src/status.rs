//! What the activator writes on Functions: replicas, the last decision, the last cold start.
//!
//! Written when it changed, at most twice a second, after the fact: no request and no order waits for it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use pilotlight_crds::{ColdStart, Function, FunctionKey, LastDecision, ReplicaStatus, names};
use serde::Serialize;
use serde_json::json;

use crate::{
    function::{FunctionState, Report},
    index::Index,
};

/// How often changes are written.
const EVERY: Duration = Duration::from_millis(500);
/// How many writes may be under way: more would crowd out the orders that requests wait for.
const AT_ONCE: usize = 4;
/// No write waits longer than this.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The part of a Function's status that is ours.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    replicas: ReplicaStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_decision: Option<LastDecision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_cold_start: Option<ColdStart>,
}

/// Writes changes until the process ends.
pub async fn run(client: Client, index: Arc<Index>) {
    let mut written: HashMap<FunctionKey, Written> = HashMap::new();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let functions = index.functions();
        // What another activator decides on for a while has to be written anew afterwards.
        written.retain(|key, _| index.function(key).is_some_and(|function| read(&function).is_some()));
        let changed: Vec<_> = functions
            .iter()
            .filter_map(|function| {
                let now = read(function)?;
                (written.get(&function.key) != Some(&now)).then(|| (function.key.clone(), now))
            })
            .collect();
        let writes = changed.into_iter().map(|(key, status)| {
            let client = client.clone();
            async move { write(client, &key, &status).await.then_some((key, status)) }
        });
        let done: Vec<_> = stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        written.extend(done.into_iter().flatten());
    }
}

/// What is to be written; nothing before the first decision, nor of what another activator decides on.
fn read(function: &FunctionState) -> Option<Written> {
    let Report { decision, ready, cold_start, .. } = function.report();
    let (decision, decided_at) = decision?;
    let replicas = signed(decision.replicas);
    let reason = decision.reason.as_str().to_owned();
    Some(Written {
        replicas: ReplicaStatus { desired: replicas, ready: signed(ready) },
        last_decision: Some(LastDecision { replicas, reason, time: Time(to_second(decided_at)) }),
        last_cold_start: cold_start,
    })
}

/// Kubernetes' times have whole seconds.
fn to_second(time: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn signed(replicas: u32) -> i32 {
    i32::try_from(replicas).unwrap_or(i32::MAX)
}

async fn write(client: Client, key: &FunctionKey, status: &Written) -> bool {
    let api: Api<Function> = Api::namespaced(client, &key.namespace);
    let patch = Patch::Apply(json!({
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Function",
        "status": status,
    }));
    let params = PatchParams::apply(names::ACTIVATOR).force();
    let patched = api.patch_status(&key.name, &params, &patch);
    match tokio::time::timeout(WRITE_TIMEOUT, patched).await {
        Ok(Ok(_)) => true,
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => true,
        Ok(Err(error)) => {
            tracing::debug!(function = %key, %error, "cannot write the status");
            false
        }
        Err(_) => false,
    }
}
