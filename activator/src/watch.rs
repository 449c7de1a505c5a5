//! How objects of the API server are followed. A watch that breaks off is begun again; an API server that is away
//! leaves what is known as it is.

use std::{collections::HashSet, fmt::Debug, hash::Hash, time::Duration};

use backon::ExponentialBuilder;
use futures_util::{StreamExt, pin_mut};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, ExponentialBackoff},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// What becomes of objects of one kind.
pub(crate) trait Follow: Send + 'static {
    /// The kind.
    type Object: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static;
    /// What identifies an object for `delete`.
    type Id: Hash + Eq + Clone + Send;
    /// Its name in logs and metrics.
    const KIND: &'static str;

    fn id(object: &Self::Object) -> Option<Self::Id>;
    fn apply(&self, object: Self::Object);
    fn delete(&self, id: &Self::Id);
}

/// How far the watches are: `true` once each has listed everything once.
#[derive(Clone, Debug)]
pub struct Synced(pub(crate) Vec<watch::Receiver<bool>>);

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

/// Cold starts wait for the watches: after an outage of the API server they are back within a second, where
/// kube's own pauses grow to half a minute. Jitter keeps several activators apart.
fn backoff() -> ExponentialBackoff {
    let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
    let pauses = ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest);
    pauses.without_max_times().with_jitter().into()
}

/// Follows objects of one kind until the process ends; `true` once all that there are have been listed.
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

impl<Id: Hash + Eq + Clone> Known<Id> {
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
