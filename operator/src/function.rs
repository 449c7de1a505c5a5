//! START HERE. What wakes a reconciliation, its five steps, and what follows a failure.

mod apply;
mod build;
mod drift;
mod observe;
mod pod;
mod revisions;
mod status;
mod validate;

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt};
use jiff::Timestamp;
use kube::runtime::{
    controller::{self, Action, Controller},
    reflector::ObjectRef,
};
use pilotlight_crds::{Function, FunctionKey};
use tokio_util::sync::CancellationToken;

use crate::{
    context::{Context, seed},
    error::{Error, Retry, backoff, chain},
    function::{
        apply::{Applied, apply, retire},
        build::{Children, build},
        observe::{Identity, Observed, observe},
        status::Outcome,
        validate::validate,
    },
    watch::Watches,
};

/// Reconciliations at once. kube's default is no bound, and a restart reconciles every Function; most
/// need no API call, so a few are enough to keep the API server's answers short.
const CONCURRENCY: u16 = 16;
/// A reconciliation that takes longer has met an API server that answers too slowly to go on.
const DEADLINE: Duration = Duration::from_secs(60);
/// Every Function is looked at again after this long, up to twice as long, whatever the watches say.
const RESYNC: Duration = Duration::from_secs(300);
/// What was refused is tried again after this long: the quota or policy behind it is not watched.
const REFUSED: Duration = Duration::from_secs(30);

/// Reconciles Functions until `stop`, then finishes what has begun.
pub(crate) async fn control(context: Arc<Context>, watches: Watches, stop: CancellationToken) {
    Controller::for_stream(watches.functions, context.stores.functions.clone())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(watches.affected)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, error_policy, context)
        .for_each(async |result| match result {
            // A Function that was deleted while its children still cause events.
            Ok(_) | Err(controller::Error::ObjectNotFound(_) | controller::Error::ReconcilerFailed(..)) => {}
            Err(error) => tracing::warn!(error = chain(&error), "controller"),
        })
        .await;
}

/// Reconciles one Function, with a deadline, and records how it went.
async fn reconcile(function: Arc<Function>, context: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    // kube would pass a panic on to the controller, and so to all other Functions.
    let steps = AssertUnwindSafe(steps(&function, &context)).catch_unwind();
    let result = match tokio::time::timeout(DEADLINE, steps).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(Error::Panicked(panic_message(panic.as_ref()))),
        Err(_) => Err(Error::Deadline(DEADLINE)),
    };
    let label = match &result {
        Ok(done) => done.label,
        Err(error) => error.reason(),
    };
    context.metrics.reconciled(label, started.elapsed());
    if let (Ok(_), Some(key)) = (&result, function.key()) {
        context.failures.clear(&key);
    }
    result.map(|done| done.action)
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// How a reconciliation ended.
struct Done {
    label: &'static str,
    action: Action,
}

/// The five steps. Each is a file of its name in `function/`.
async fn steps(function: &Function, context: &Context) -> Result<Done, Error> {
    if function.metadata.deletion_timestamp.is_some() {
        // The children carry owner references: Kubernetes collects them. To apply them would bring them back.
        return Ok(Done { label: "ok", action: Action::await_change() });
    }
    let identity = Identity::of(function)?;
    let seen = observe(function, &identity, context).await?;
    let valid = match validate(function, &identity) {
        Ok(valid) => valid,
        // Nothing else is touched: the running revision stays.
        Err(invalid) => return reject(function, &seen, invalid.0, context).await,
    };
    let desired = build(&valid, &context.config)?;
    let applied = apply(desired, &seen, &identity, context).await?;
    let outcome = outcome(&applied, &valid, context);
    let verdict = status::compute(&seen, &applied_revisions(&seen, &applied), outcome, Timestamp::now());
    status::publish(function, &verdict.status, context).await?;
    retire(&seen, &verdict.status, &identity, context).await?;

    let refused = !applied.refusals().is_empty();
    let resync = RESYNC + Duration::from_secs(seed(&identity.uid) % RESYNC.as_secs());
    let again = verdict.look_again.unwrap_or(if refused { REFUSED } else { resync });
    Ok(Done { label: "ok", action: Action::requeue(again) })
}

/// What the status says of a spec that was applied.
fn outcome(applied: &Children<Applied>, valid: &validate::Validated, context: &Context) -> Outcome {
    Outcome::Applied {
        revision: applied.revision.clone(),
        exists: applied.deployment.is_ok(),
        refusals: applied.refusals(),
        url: build::url(valid, &context.config),
        warnings: build::warnings(valid),
    }
}

/// The revisions that there are once the latest is applied.
fn applied_revisions(seen: &Observed, applied: &Children<Applied>) -> Vec<revisions::Revision> {
    let latest = applied.deployment.as_ref().ok().and_then(revisions::Revision::read);
    let others = seen.revisions().filter(|revision| revision.name != applied.revision);
    others.chain(latest).collect()
}

/// Says what is wrong with a spec.
async fn reject(
    function: &Function,
    seen: &Observed,
    message: String,
    context: &Context,
) -> Result<Done, Error> {
    let revisions: Vec<_> = seen.revisions().collect();
    let verdict = status::compute(seen, &revisions, Outcome::Invalid(message), Timestamp::now());
    status::publish(function, &verdict.status, context).await?;
    Ok(Done { label: "invalid_spec", action: Action::await_change() })
}

/// When a failed reconciliation is tried again.
#[expect(clippy::needless_pass_by_value, reason = "the signature that kube asks for")]
fn error_policy(function: Arc<Function>, error: &Error, context: Arc<Context>) -> Action {
    let Some(key) = function.key() else { return Action::await_change() };
    let exists = |key: &FunctionKey| {
        context.stores.functions.get(&ObjectRef::new(&key.name).within(&key.namespace)).is_some()
    };
    let failures = context.failures.count(&key, exists);
    if matches!(error, Error::NamespaceEnding) {
        return Action::await_change();
    }
    tracing::warn!(function = %key, reason = error.reason(), error = chain(error), failures, "reconciliation failed");
    match error.retry() {
        Retry::Never => Action::await_change(),
        Retry::Backoff => Action::requeue(backoff(failures, seed(&(&key, failures)))),
    }
}

#[cfg(test)]
mod tests;
