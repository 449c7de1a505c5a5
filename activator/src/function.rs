//! START HERE (a function at run time): its slots, who waits for one, its pods, its load.
//!
//! Everything that can change sits behind one lock per function, so that one function's flood never
//! waits for another's. Nothing is awaited under the lock, and nothing in here asks the API server or
//! Redis.
//!
//! - [`config`]: what its spec asks for; [`process`]: what all functions share
//! - [`slot`]: leave to have a request in a pod; [`retries`]: how many may be sent again
//! - [`pod`]: one that can be called. [`replicas`]: those that take requests, [`health`]: those that answer,
//!   [`growth`]: whether more are coming, [`retiring`]: which ones go, [`coldstart`]: when there was none;
//!   [`report`]: what there is to say of it
//! - [`role`]: owner or lessee among several activators, [`lending`]: who gets a free slot; [`peers`]: what peers
//!   say, [`mail`], [`outbox`]: what they are told

mod coldstart;
mod config;
mod growth;
mod health;
mod lending;
mod mail;
mod outbox;
mod peers;
mod pod;
mod process;
mod replicas;
mod report;
mod retiring;
mod retries;
mod role;
mod slot;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use pilotlight_crds::{FunctionKey, PodTrouble};
use tokio::sync::oneshot;

pub use self::{
    coldstart::{ColdStart, Phase},
    config::{FunctionConfig, Timeouts},
    outbox::{Outbox, PeerView},
    pod::{Pod, PodRef, Pulse},
    process::{Pokes, Process},
    replicas::{Observed, ObservedDeployment},
    report::Report,
    retiring::ScaleDown,
    retries::RetryBudget,
    role::Share,
    slot::{Acquired, HoldError, Slot, Wish},
};
use self::{
    growth::Growth,
    lending::{after_release, ask_back, hand_out, in_use},
    mail::Mail,
    pod::PodEntry,
    role::Role,
    slot::{Held, HeldGuard},
};
use crate::{
    autoscaler::{Decision, Window},
    metrics::FunctionMetrics,
    slots::{Full, Place, Slots},
    time,
};

/// A held request.
#[derive(Debug)]
struct Waiter {
    sender: oneshot::Sender<Result<Slot, HoldError>>,
    /// The pod that it would best go to, if that has a slot when its turn comes.
    preferred: Option<PodRef>,
}

/// One function at run time.
#[derive(Debug)]
pub struct FunctionState {
    /// Namespace and name.
    pub key: FunctionKey,
    /// Its metrics.
    pub metrics: FunctionMetrics,
    /// How many of its requests may be repeated.
    pub retries: RetryBudget,
    config: ArcSwap<FunctionConfig>,
    process: Arc<Process>,
    inner: Mutex<Inner>,
    /// Whether the autoscaler was asked to look and has not yet.
    poked: AtomicBool,
    /// Whether a cold start may be under way: a warm request need not take the lock to know.
    warming: AtomicBool,
}

/// What changes.
#[derive(Debug)]
struct Inner {
    slots: Slots<Waiter, PodRef>,
    window: Window,
    /// Pods by uid.
    pods: BTreeMap<String, PodEntry>,
    /// Replicas asked for, by revision.
    replicas: BTreeMap<String, u32>,
    /// Versions of their Deployments, by revision.
    versions: BTreeMap<String, String>,
    growth: Growth,
    /// Revisions whose pods cannot even be created, why, and since when.
    refused: BTreeMap<String, (PodTrouble, Instant)>,
    /// The revision that served before the one that serves now.
    previous: Option<String>,
    /// The cold start that is under way.
    cold: Option<ColdStart>,
    /// The last cold start that ended.
    last_cold: Option<pilotlight_crds::ColdStart>,
    last_decision: Option<(Decision, jiff::Timestamp)>,
    /// More requests than that, and the autoscaler has to look.
    enough_for: u32,
    /// Why the last order to scale failed.
    scale_error: Option<String>,
    deleted: bool,
    /// What this activator is to the function, among its peers.
    role: Role,
    view: Arc<PeerView>,
    mail: Mail,
    /// Number of the last claim on an owner.
    claims: u64,
}

impl FunctionState {
    /// A function of which only the spec is known.
    pub fn new(
        config: FunctionConfig,
        metrics: FunctionMetrics,
        process: Arc<Process>,
        now: Instant,
    ) -> Arc<Self> {
        let view = process.view();
        let alone = view.me.is_none();
        let inner = Inner {
            slots: Slots::new(config.hold_timeout),
            window: Window::new(config.policy.window, now),
            pods: BTreeMap::new(),
            replicas: BTreeMap::new(),
            versions: BTreeMap::new(),
            growth: Growth::default(),
            refused: BTreeMap::new(),
            previous: None,
            cold: None,
            last_cold: None,
            last_decision: None,
            enough_for: u32::MAX,
            scale_error: None,
            deleted: false,
            role: if alone { Role::alone() } else { Role::undecided(now) },
            view,
            mail: Mail::default(),
            claims: 0,
        };
        let state = Arc::new(Self {
            key: config.key.clone(),
            metrics,
            retries: RetryBudget::default(),
            config: ArcSwap::from_pointee(config),
            process,
            inner: Mutex::new(inner),
            poked: AtomicBool::new(false),
            warming: AtomicBool::new(false),
        });
        if !alone {
            state.follow(now);
        }
        state
    }

    /// The Function as it is now.
    pub fn config(&self) -> Arc<FunctionConfig> {
        self.config.load_full()
    }

    /// Takes a slot, or waits for one until `hold.timeout`.
    ///
    /// # Errors
    /// When the request may not wait, or waited in vain.
    pub async fn acquire(self: &Arc<Self>, wish: Wish<'_>) -> Result<Acquired, HoldError> {
        let began = time::now();
        let config = self.config.load();
        let Held { guard, receiver, cold } = {
            let mut inner = self.lock();
            if wish.until.is_none() {
                inner.window.arrive(began);
                inner.mail.arrivals = inner.mail.arrivals.saturating_add(1);
            }
            let preferred = wish.pod.and_then(|uid| inner.pods.get(uid)?.pod.clone());
            if let Some(pod) = inner.slots.take(preferred.as_ref()) {
                self.note_level(&mut inner, began);
                return Ok(Acquired { slot: Slot::new(Arc::clone(self), pod), held: None, cold: false });
            }
            self.hold(&mut inner, &config, preferred, wish.bytes, began)?
        };
        self.poke();
        let until = wish.until.unwrap_or(began + config.hold_timeout);
        let outcome = Box::pin(tokio::time::timeout_at(until.into(), receiver)).await;
        drop(guard);
        let held = began.elapsed();
        match outcome {
            Ok(Ok(granted)) => granted.map(|slot| Acquired { slot, held: Some(held), cold }),
            Ok(Err(_)) => Err(HoldError::Deleted),
            Err(_) => Err(HoldError::Timeout { waited: held, why: self.why_no_slot() }),
        }
    }

    /// Puts a request into the queue; the first one of a cold function begins a cold start.
    fn hold<'a>(
        self: &'a Arc<Self>,
        inner: &mut Inner,
        config: &FunctionConfig,
        preferred: Option<PodRef>,
        bytes: u64,
        now: Instant,
    ) -> Result<Held<'a>, HoldError> {
        if inner.deleted {
            return Err(HoldError::Deleted);
        }
        if self.process.ending() {
            return Err(HoldError::Leaving);
        }
        if !self.process.enter(bytes, inner.slots.holding()) {
            return Err(HoldError::ProcessFull);
        }
        let (sender, receiver) = oneshot::channel();
        let Place { ticket, pushed_out } = inner
            .slots
            .hold(Waiter { sender, preferred }, bytes, config.hold, now)
            .map_err(|(_, full)| {
                self.process.leave(bytes);
                match full {
                    Full::Requests => HoldError::TooManyRequests,
                    Full::Bytes => HoldError::TooManyBytes,
                }
            })?;
        self.give_up_on(pushed_out);
        let cold = inner.slots.open_pods() == 0;
        if cold && inner.cold.is_none() {
            let revision = config.serving.clone().unwrap_or_default();
            inner.cold = Some(ColdStart::begin(revision, jiff::Timestamp::now(), now));
            self.warming.store(true, Ordering::Relaxed);
        }
        ask_back(inner, config, now);
        self.note_level(inner, now);
        Ok(Held { guard: HeldGuard { function: self, ticket, bytes }, receiver, cold })
    }

    /// A slot comes back: the held request whose turn it is gets it.
    fn release(self: &Arc<Self>, pod: &PodRef) {
        let now = time::now();
        let (grants, too_old) = {
            let (config, mut inner) = (self.config.load(), self.lock());
            if inner.slots.put_back(pod) {
                // It may have been waited for.
                self.poke();
            }
            after_release(&mut inner, config.limit, pod);
            let grants = hand_out(&mut inner, &config, now);
            let too_old = inner.slots.expire(now);
            self.note_level(&mut inner, now);
            (grants, too_old)
        };
        self.deliver(grants);
        self.give_up_on(too_old);
    }

    /// A held request has left the queue.
    fn leave(self: &Arc<Self>, ticket: crate::slots::Ticket) {
        let mut inner = self.lock();
        inner.slots.leave(ticket);
        // Only here: overload begins and ends with somebody who leaves the queue, with a slot or without.
        self.metrics.overloaded.set(i64::from(inner.slots.overloaded()));
        self.note_level(&mut inner, time::now());
    }

    /// Hands slots to those who waited. Not under the lock: a caller who has just gone gives his back.
    fn deliver(self: &Arc<Self>, grants: impl IntoIterator<Item = crate::slots::Grant<Waiter, PodRef>>) {
        for grant in grants {
            let _ = grant.waiter.sender.send(Ok(Slot::new(Arc::clone(self), grant.pod)));
        }
    }

    /// Tells those who have waited too long under overload. A waiter is only woken, so the lock may be held.
    fn give_up_on(&self, waiters: Vec<Waiter>) {
        if waiters.is_empty() {
            return;
        }
        self.metrics.overload_expired.inc_by(waiters.len() as u64);
        self.dismiss(waiters, &HoldError::Overloaded);
    }

    /// Answers every held request with an error.
    fn dismiss(&self, waiters: Vec<Waiter>, error: &HoldError) {
        for waiter in waiters {
            let _ = waiter.sender.send(Err(error.clone()));
        }
    }

    /// Changes the Function's settings.
    pub fn configure(self: &Arc<Self>, config: FunctionConfig, now: Instant) {
        let grants = {
            let mut inner = self.lock();
            let old = self.config.swap(Arc::new(config));
            let config = self.config.load();
            inner.window.set_length(config.policy.window);
            if old.serving != config.serving && old.serving.is_some() {
                inner.previous.clone_from(&old.serving);
            }
            inner.slots.set_timeout(config.hold_timeout);
            if old.limit != config.limit {
                let in_use = in_use(&inner, config.limit);
                inner.role.limit_changed(in_use, now);
            }
            self.settle(&mut inner, now)
        };
        self.deliver(grants);
        self.poke();
    }

    /// The Function was deleted: nobody waits any longer.
    pub fn delete(&self) {
        let waiters = {
            let mut inner = self.lock();
            inner.deleted = true;
            inner.slots.dismiss()
        };
        self.dismiss(waiters, &HoldError::Deleted);
    }

    /// The process ends: nobody waits here any longer. What is in flight goes on.
    pub(crate) fn turn_away(&self) {
        let waiters = self.lock().slots.dismiss();
        self.dismiss(waiters, &HoldError::Leaving);
    }

    /// Asks the autoscaler to look at this function, once until it does.
    pub fn poke(self: &Arc<Self>) {
        if !self.poked.swap(true, Ordering::AcqRel) {
            self.process.poke(self);
        }
    }

    /// The autoscaler is looking: the next poke counts again.
    pub fn looked_at(&self) {
        self.poked.store(false, Ordering::Release);
    }

    fn note_level(self: &Arc<Self>, inner: &mut Inner, now: Instant) {
        let (in_flight, held) = (inner.slots.in_flight(), inner.slots.held());
        let elsewhere = inner.role.load();
        let others = elsewhere.in_flight.saturating_add(elsewhere.held);
        let level = in_flight.saturating_add(held).saturating_add(others);
        inner.window.set_level(level, now);
        if level > inner.enough_for {
            self.poke();
        }
        if in_flight + held == 0 {
            // Everybody who waited for a cold start has gone: it is nobody's any longer.
            inner.cold = None;
        }
        self.metrics.in_flight.set(i64::from(in_flight));
        self.metrics.held.set(i64::from(held));
        self.spread(inner, now);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics under the lock; should it, the counts are still the best there are.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
