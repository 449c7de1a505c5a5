//! A new revision takes over without anybody noticing, and a bad one does not take over.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use pilotlight_crds::names::REVISION_LABEL;
use pilotlight_tests::{
    Load, Scope, await_condition,
    objects::{hello, revision},
    scoped,
};
use serde_json::{Value, json};

use crate::support::{END, SECONDS, START, expect_ok, pod_of};

/// Enough requests a second that a gap of 100 ms shows.
const RATE: f64 = 40.0;

fn version(version: &str, more: Value) -> Value {
    let mut spec = hello(more);
    spec["env"] = json!([{ "name": "VERSION", "value": version }]);
    spec
}

async fn await_revision_other_than(scope: &Scope, old: Option<&String>) -> Result<String> {
    await_condition(START, "the new revision serves", async || {
        let now = revision(&scope.function("hello").await?);
        now.clone().filter(|_| now.as_ref() != old).with_context(|| format!("{now:?} serves"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_under_load_fails_no_request() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("hello", version("1", json!({}))).await?;
        expect_ok(&caller.get("/").await?)?;
        let old = revision(&scope.function("hello").await?);
        let quick = Load::new(&caller, "/", RATE).start();
        let slow = Load::new(&caller, "/sleep?ms=900", 4.0).start();
        let rolled = async {
            scope.apply("hello", version("2", json!({}))).await?;
            let new = await_revision_other_than(scope, old.as_ref()).await?;
            await_condition(END, "only the new revision is left", async || {
                let mut left = scope.deployments("hello").await?;
                let left: Vec<_> = left.iter_mut().map(|d| d.labels()[REVISION_LABEL].clone()).collect();
                ensure!(left == [new.clone()], "{left:?}");
                Ok(())
            })
            .await?;
            anyhow::Ok(new)
        }
        .await;
        let (quick, slow) = (quick.stop().await?, slow.stop().await?);
        let new = rolled?;
        quick.all_answered()?;
        slow.all_answered()?;
        ensure!(pod_of(&caller.get("/").await?)?.contains(&new), "the old revision answers");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_of_a_warm_pool_is_as_large_as_the_old_one() -> Result<()> {
    scoped(async |scope| {
        let scaling = json!({ "scaling": { "warm": 2 } });
        let caller = scope.deploy("hello", version("1", scaling.clone())).await?;
        scope.await_pods("hello", 2, START).await?;
        let old = revision(&scope.function("hello").await?);
        let load = Load::new(&caller, "/", RATE).start();
        let rolled = async {
            scope.apply("hello", version("2", scaling)).await?;
            await_revision_other_than(scope, old.as_ref()).await
        }
        .await;
        let at_takeover = scope.pods("hello").await?;
        load.stop().await?.all_answered()?;
        let mut by_revision: BTreeMap<&str, usize> = BTreeMap::new();
        for pod in &at_takeover {
            *by_revision.entry(pod.labels()[REVISION_LABEL].as_str()).or_default() += 1;
        }
        let new = rolled?;
        ensure!(by_revision.get(new.as_str()) == Some(&2), "{new} took over with {by_revision:?}");
        scope.await_pods("hello", 2, END).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_image_is_reported_while_the_old_revision_serves() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("hello", hello(json!({}))).await?;
        expect_ok(&caller.get("/").await?)?;
        let old = revision(&scope.function("hello").await?);
        let load = Load::new(&caller, "/", RATE).start();
        let reported = async {
            let began = std::time::Instant::now();
            scope.apply("hello", json!({ "image": "pilotlight.local/no-such-image:dev" })).await?;
            let reason = scope.await_status("hello", "Healthy", "False", START).await?;
            println!("a broken image was reported as {reason} after {:?}", began.elapsed());
            ensure!(["ErrImagePull", "ImagePullBackOff"].contains(&reason.as_str()), "{reason}");
            scope.await_event("hello", &["ErrImagePull", "ImagePullBackOff"], SECONDS).await?;
            let ready = scope.await_status("hello", "Ready", "True", SECONDS).await?;
            ensure!(ready == "Ready", "{ready}");
            ensure!(revision(&scope.function("hello").await?) == old, "the broken revision took over");
            // The way back needs no new pod of the old revision.
            scope.apply("hello", hello(json!({}))).await?;
            scope.await_status("hello", "Healthy", "True", Duration::from_secs(20)).await
        }
        .await;
        load.stop().await?.all_answered()?;
        reported.map(drop)
    })
    .await
}
