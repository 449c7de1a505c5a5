//! Functions of which a peer has to be told something. What it is told is read when it is sent, so that
//! much that happens at once is one word, and a slow connection piles up nothing.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pilotlight_crds::FunctionKey;
use tokio::sync::Notify;

use super::FunctionState;
use crate::peer::View;

/// Who is there, as the functions see it: with the outbox of each.
pub type PeerView = View<Outbox>;

/// Functions of which one peer has to be told. Clones are the same outbox, which is equal only to itself.
#[derive(Clone, Default)]
pub struct Outbox(Arc<Inner>);

#[derive(Default)]
struct Inner {
    queues: Mutex<Queues>,
    wake: Notify,
}

#[derive(Default)]
struct Queues {
    now: HashMap<FunctionKey, Arc<FunctionState>>,
    later: HashMap<FunctionKey, Arc<FunctionState>>,
    closed: bool,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the functions: they have outboxes themselves.
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

impl PartialEq for Outbox {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Outbox {
    /// Something of this function has to be told at once.
    pub fn now(&self, function: &Arc<FunctionState>) {
        let mut queues = self.lock();
        if !queues.closed {
            queues.now.insert(function.key.clone(), Arc::clone(function));
            self.0.wake.notify_one();
        }
    }

    /// Something of this function has to be told with the next beat.
    pub fn later(&self, function: &Arc<FunctionState>) {
        let mut queues = self.lock();
        if !queues.closed {
            queues.later.insert(function.key.clone(), Arc::clone(function));
        }
    }

    /// There is nobody to tell any longer.
    pub fn close(&self) {
        *self.lock() = Queues { closed: true, ..Queues::default() };
        self.0.wake.notify_one();
    }

    /// Whether there is nobody to tell any longer.
    pub fn closed(&self) -> bool {
        self.lock().closed
    }

    /// What has to be told at once; with a beat, everything.
    pub fn take(&self, beat: bool) -> Vec<Arc<FunctionState>> {
        let mut queues = self.lock();
        if beat {
            let later = std::mem::take(&mut queues.later);
            queues.now.extend(later);
        }
        std::mem::take(&mut queues.now).into_values().collect()
    }

    /// Waits until something has to be told at once.
    pub(crate) async fn woken(&self) {
        self.0.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
