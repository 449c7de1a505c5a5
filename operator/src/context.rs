//! What every reconciliation needs: clients, stores, settings, and a little memory.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::{
    Client,
    runtime::events::{Recorder, Reporter},
};
use pilotlight_crds::{FunctionKey, names};

use crate::{config::Config, metrics::Metrics, watch::Stores};

/// How long the API server may take to answer one call. kube has no such limit by default.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection to the API server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A state Secret is applied again after this long: nothing watches Secrets, so that Pilotlight needs no
/// right to list them.
const SECRET_INTERVAL: Duration = Duration::from_secs(300);

/// Clients of the API server.
#[derive(Clone)]
pub(crate) struct Clients {
    /// For watches: a quiet watch is silent for long, and kube's watcher has its own idle timeout.
    pub watches: Client,
    /// For everything else: each answer has a deadline.
    pub calls: Client,
}

impl Clients {
    /// Reads the kubeconfig or the pod's own service account.
    pub(crate) async fn connect() -> Result<Self, kube::Error> {
        let mut config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let watches = Client::try_from(config.clone())?;
        config.read_timeout = Some(CALL_TIMEOUT);
        // Without this, the time that a pooled connection sat idle counts as time without an answer.
        config.reset_reader_on_write = true;
        // Failures are retried once, by the backoff of the whole reconciliation.
        config.default_retry = false;
        Ok(Self { watches, calls: Client::try_from(config)? })
    }
}

/// Shared by all reconciliations of one term as leader.
pub(crate) struct Context {
    pub client: Client,
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
    pub config: Arc<Config>,
    pub stores: Arc<Stores>,
    pub failures: Failures,
    pub secrets: Recently,
}

impl Context {
    pub(crate) fn new(
        client: Client,
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        stores: Arc<Stores>,
    ) -> Self {
        let reporter =
            Reporter { controller: names::OPERATOR.into(), instance: Some(config.identity.clone()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            metrics,
            config,
            stores,
            failures: Failures::default(),
            secrets: Recently::default(),
        }
    }
}

/// How often in a row each Function's reconciliation has failed.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<FunctionKey, u32>>);

impl Failures {
    /// Counts a failure and returns how many there are now. Functions that `exists` denies are forgotten.
    pub(crate) fn count(&self, key: &FunctionKey, exists: impl Fn(&FunctionKey) -> bool) -> u32 {
        let mut failures = lock(&self.0);
        failures.retain(|key, _| exists(key));
        let count = failures.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// Forgets the failures of a Function.
    pub(crate) fn clear(&self, key: &FunctionKey) {
        lock(&self.0).remove(key);
    }
}

/// When something was last done for each Function. Entries older than the interval are dropped, so
/// deleted Functions leave nothing behind.
#[derive(Debug, Default)]
pub(crate) struct Recently(Mutex<HashMap<FunctionKey, Instant>>);

impl Recently {
    /// Whether it is time again at `now`.
    pub(crate) fn is_due(&self, key: &FunctionKey, now: Instant) -> bool {
        let done = lock(&self.0).get(key).copied();
        done.is_none_or(|done| now.duration_since(done) >= SECRET_INTERVAL)
    }

    /// Notes that it was done at `now`.
    pub(crate) fn done(&self, key: &FunctionKey, now: Instant) {
        let mut times = lock(&self.0);
        times.retain(|_, done| now.duration_since(*done) < SECRET_INTERVAL);
        times.insert(key.clone(), now);
    }
}

/// A number that differs between Functions and stays the same for each: spreads what would otherwise
/// happen to all at once.
pub(crate) fn seed(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// No update of these maps can be half done, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_per_function_and_forgotten_with_it() {
        let failures = Failures::default();
        let (a, b) = (FunctionKey::new("ns", "a"), FunctionKey::new("ns", "b"));
        assert_eq!(failures.count(&a, |_| true), 1);
        assert_eq!(failures.count(&a, |_| true), 2);
        assert_eq!(failures.count(&b, |key| *key == b), 1, "a is gone");
        assert_eq!(failures.count(&a, |_| true), 1);
        failures.clear(&a);
        assert_eq!(failures.count(&a, |_| true), 1);
    }

    #[test]
    fn what_was_done_is_due_again_after_the_interval() {
        let (recently, key, start) = (Recently::default(), FunctionKey::new("ns", "a"), Instant::now());
        assert!(recently.is_due(&key, start));
        recently.done(&key, start);
        assert!(!recently.is_due(&key, start + Duration::from_secs(1)));
        assert!(recently.is_due(&key, start + SECRET_INTERVAL));
    }
}
