//! Many Functions applied at once: when all are routable, and what they cost in memory.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use kube::{ResourceExt, api::ListParams};
use pilotlight_crds::Function;
use pilotlight_tests::{
    Scope, await_condition,
    objects::{condition, hello},
};
use serde_json::json;

use crate::memory::{self, Memory};

/// `kubectl apply` sends one after the other, several pipelines may run at once.
const APPLIES_AT_ONCE: usize = 8;
/// Far above the bar, so that a miss is measured instead of cut off.
const LIMIT: Duration = Duration::from_secs(180);
/// Functions that are called to see whether "routable" is true.
const SAMPLES: usize = 5;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Many {
    pub(crate) functions: u32,
    /// From the first apply until all were applied.
    pub(crate) applied: Duration,
    /// From the first apply until all were `Routable`, and every activator knew their revisions.
    pub(crate) routable: Duration,
    /// From the call to the answer, of those that were called at once, from zero.
    pub(crate) answered: Vec<Duration>,
    pub(crate) memory: Vec<Memory>,
}

/// Applies `functions` Functions.
pub(crate) async fn measure(scope: &Scope, functions: u32) -> Result<Many> {
    let names: Vec<String> = (0..functions).map(|number| format!("f{number:04}")).collect();
    let began = Instant::now();
    let applies = stream::iter(&names).map(|name| scope.apply(name, hello(json!({}))));
    applies.buffer_unordered(APPLIES_AT_ONCE).try_collect::<Vec<_>>().await?;
    let applied = began.elapsed();
    println!("{functions} Functions applied in {applied:?}");
    let routable = await_condition(LIMIT, "all Functions are routable", async || {
        all_routable(scope, &names).await?;
        all_known(scope, &names).await?;
        Ok(began.elapsed())
    })
    .await?;
    println!("all routable after {routable:?}");
    let memory = memory::of_pilotlight(&scope.cluster).await?;
    let sampled = names.iter().step_by(names.len() / SAMPLES).take(SAMPLES);
    let answered = try_join_all(sampled.map(|name| call(scope, name))).await?;
    Ok(Many { functions, applied, routable, answered, memory })
}

async fn all_routable(scope: &Scope, names: &[String]) -> Result<()> {
    let there = scope.api::<Function>().list(&ListParams::default()).await?.items;
    let routable = there.iter().filter(|function| {
        condition(function, "Routable")
            .is_some_and(|c| c.status == "True" && c.observed_generation == function.metadata.generation)
    });
    let routable: BTreeSet<_> = routable.map(ResourceExt::name_any).collect();
    let missing = names.iter().filter(|name| !routable.contains(*name)).count();
    ensure!(missing == 0, "{missing} are not");
    Ok(())
}

/// Every activator knows a serving revision of each.
async fn all_known(scope: &Scope, names: &[String]) -> Result<()> {
    for page in scope.cluster.admin("activator", "/debug/functions").await? {
        let page: Vec<serde_json::Value> = serde_json::from_str(&page)?;
        let serving = page.iter().filter(|function| function["serving"].is_string());
        let serving: BTreeSet<_> = serving.filter_map(|function| function["function"].as_str()).collect();
        let known = |name: &&String| serving.contains(format!("{}/{name}", scope.namespace).as_str());
        let missing = names.len() - names.iter().filter(known).count();
        ensure!(missing == 0, "an activator does not know {missing}");
    }
    Ok(())
}

async fn call(scope: &Scope, name: &str) -> Result<Duration> {
    let reply = scope.caller(name).await?.get("/").await?;
    ensure!(reply.status == 200, "{name}: {}", reply.describe());
    Ok(reply.timing.end)
}
