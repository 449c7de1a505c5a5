//! START HERE (scaling): look at a function, decide, order.
//!
//! A function is looked at when something happened that can matter (a poke) and, while time alone can
//! change the answer, every second. Deciding is pure ([`decide()`]); orders go out in tasks of their own,
//! one at a time per revision, so that a slow API server delays no other function.
//!
//! - [`policy`]: how a function is to be scaled; [`window`]: what its load was
//! - [`decide()`]: how many replicas that makes
//! - [`scale`]: the orders

mod decide;
mod policy;
mod scale;
mod window;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use kube::Client;
use pilotlight_crds::FunctionKey;
use tokio::sync::mpsc;

pub use self::{
    decide::{Decision, Reason, Seen, decide},
    policy::{Policy, Target},
    window::Window,
};
use crate::function::{FunctionConfig, FunctionState, Observed, Pokes};

/// Time for which pokes of a function that has replicas are gathered into one look. A function
/// without replicas is looked at at once: somebody waits.
const COALESCE: Duration = Duration::from_millis(20);
/// Pause before an order that failed is given again.
const RETRY: Duration = Duration::from_millis(500);
/// How often a function that another activator decides on is looked at while requests wait for it here.
const GUEST_LOOKS: Duration = Duration::from_secs(1);

/// What the loop reacts to besides pokes.
#[derive(Debug)]
enum Event {
    /// Time to look at a function again.
    Look(Arc<FunctionState>),
    /// An order for a revision has been carried out, or not.
    Done(Arc<FunctionState>, String, Result<Option<u32>, String>),
}

/// An order for one revision.
#[derive(Debug)]
struct Order {
    revision: String,
    replicas: u32,
    delete_first: Vec<String>,
    /// Only if the Deployment is as it was seen: somebody else may have ordered more.
    unless_changed: Option<String>,
}

impl Order {
    fn new(revision: &str, replicas: u32) -> Self {
        Self { revision: revision.to_owned(), replicas, delete_first: Vec::new(), unless_changed: None }
    }
}

/// The autoscaler: one loop for all functions.
#[allow(missing_debug_implementations)] // kube's client has no `Debug`
pub struct Autoscaler {
    client: Client,
    events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Event>,
    /// Revisions for which an order is under way.
    under_way: HashSet<(FunctionKey, String)>,
    /// Functions that will be looked at again, and when.
    planned: HashMap<FunctionKey, Instant>,
}

/// A look at one function: what was seen and decided.
#[derive(Debug)]
struct Plan<'a> {
    function: &'a Arc<FunctionState>,
    config: Arc<FunctionConfig>,
    observed: Observed,
    decision: Decision,
}

impl Autoscaler {
    /// An autoscaler that orders through `client`.
    pub fn new(client: Client) -> Self {
        let (events, inbox) = mpsc::unbounded_channel();
        Self { client, events, inbox, under_way: HashSet::new(), planned: HashMap::new() }
    }

    /// Runs until the process ends.
    pub async fn run(mut self, mut pokes: Pokes) {
        loop {
            tokio::select! {
                Some(function) = pokes.recv() => self.poked(&function),
                Some(event) = self.inbox.recv() => self.handle(event),
                else => return,
            }
        }
    }

    fn poked(&mut self, function: &Arc<FunctionState>) {
        function.looked_at();
        let observed = function.observe(Instant::now());
        let ordered = self.under_way.iter().any(|(key, _)| *key == function.key);
        if observed.seen.replicas == 0 && observed.seen.held > 0 && !ordered {
            self.look(function);
        } else {
            self.plan(function, COALESCE);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Look(function) => {
                let due = self.planned.get(&function.key).is_some_and(|at| *at <= Instant::now());
                if due {
                    self.planned.remove(&function.key);
                    self.look(&function);
                }
            }
            Event::Done(function, revision, outcome) => {
                if let Err(error) = &outcome {
                    function.metrics.scale_errors.inc();
                    tracing::warn!(function = %function.key, revision, error, "cannot scale");
                }
                self.under_way.remove(&(function.key.clone(), revision.clone()));
                function.scaled(&revision, outcome, Instant::now());
            }
        }
    }

    /// Looks at a function after `pause`, unless a look is planned before then.
    fn plan(&mut self, function: &Arc<FunctionState>, pause: Duration) {
        let at = Instant::now() + pause;
        match self.planned.get(&function.key) {
            Some(planned) if *planned <= at => return,
            _ => self.planned.insert(function.key.clone(), at),
        };
        let (events, function) = (self.events.clone(), Arc::clone(function));
        tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            // The loop is gone only while the process ends.
            let _ = events.send(Event::Look(function));
        });
    }

    fn look(&mut self, function: &Arc<FunctionState>) {
        let now = Instant::now();
        function.give_up_on_trouble(now);
        let config = function.config();
        let observed = function.observe(now);
        let decision = decide(&config.policy, &observed.seen);
        if !observed.owned {
            return self.look_as_guest(Plan { function, config, observed, decision });
        }
        function.metrics.desired.set(i64::from(decision.replicas));
        if function.decided(decision) && decision.replicas != observed.seen.replicas {
            function.metrics.decided(decision.reason);
            tracing::info!(function = %function.key, replicas = decision.replicas, from = observed.seen.replicas,
                reason = decision.reason.as_str(), "decided");
        }
        let plan = Plan { function, config, observed, decision };
        let busy = |revision: &str| self.under_way.contains(&(function.key.clone(), revision.to_owned()));
        let orders = plan.orders(busy, now);
        for order in orders {
            self.order(function, order);
        }
        if let Some(pause) = plan.look_again() {
            self.plan(function, pause);
        }
    }

    /// Another activator decides on this function. Only the first pod is ordered from here, if a request
    /// waits for it here: that must not depend on anybody else.
    fn look_as_guest(&mut self, plan: Plan<'_>) {
        let Plan { function, config, observed, decision } = plan;
        if observed.seen.held == 0 {
            return;
        }
        let serving = config.serving.as_deref().filter(|serving| observed.replicas.get(*serving) == Some(&0));
        let busy = |revision: &str| self.under_way.contains(&(function.key.clone(), revision.to_owned()));
        if let Some(serving) = serving.filter(|serving| decision.replicas > 0 && !busy(serving)) {
            function.metrics.decided(decision.reason);
            let order = Order::new(serving, decision.replicas);
            self.order(function, Order { unless_changed: observed.version, ..order });
        }
        self.plan(function, GUEST_LOOKS);
    }

    fn order(&mut self, function: &Arc<FunctionState>, order: Order) {
        self.under_way.insert((function.key.clone(), order.revision.clone()));
        let (client, events, function) = (self.client.clone(), self.events.clone(), Arc::clone(function));
        tokio::spawn(async move {
            let outcome = carry_out(&client, &function.key, &order).await;
            if outcome.is_err() {
                // The order stays under way meanwhile, or a refusing API server would be flooded.
                tokio::time::sleep(RETRY).await;
            }
            let _ = events.send(Event::Done(function, order.revision, outcome));
        });
    }
}

impl Plan<'_> {
    /// What to order: the serving revision follows the decision, a new revision is tried with as many,
    /// and what serves no longer goes when its last request has ended.
    fn orders(&self, under_way: impl Fn(&str) -> bool, now: Instant) -> Vec<Order> {
        // Before the operator has said what serves, there is nothing to scale, and nothing to take away.
        let Some(serving) = self.config.serving.as_deref() else { return Vec::new() };
        let replicas: &BTreeMap<String, u32> = &self.observed.replicas;
        let free = replicas.iter().filter(|(revision, _)| !under_way(revision));
        free.filter_map(|(revision, &current)| {
            if revision == serving {
                return self.order_for_serving(revision, current, now);
            }
            let wanted = self.wanted_of_other(revision);
            (wanted != current).then(|| Order::new(revision, wanted))
        })
        .collect()
    }

    fn order_for_serving(&self, revision: &str, current: u32, now: Instant) -> Option<Order> {
        let wanted = self.decision.replicas;
        let down = self.function.retire(wanted, now);
        if wanted > current {
            return Some(Order::new(revision, wanted));
        }
        let down = down?;
        // When all go there is nothing to choose from.
        let delete_first = if down.replicas == 0 { Vec::new() } else { down.first };
        Some(Order { delete_first, ..Order::new(revision, down.replicas) })
    }

    fn wanted_of_other(&self, revision: &str) -> u32 {
        let current = self.observed.replicas.get(revision).copied().unwrap_or(0);
        if self.config.latest.as_deref() == Some(revision) {
            return self.decision.replicas.max(self.observed.seen.replicas).max(1);
        }
        let ended = !self.observed.busy_revisions.contains(revision) && !self.observed.seen.blind;
        if ended { 0 } else { current }
    }

    fn look_again(&self) -> Option<Duration> {
        let rolling = !self.observed.busy_revisions.is_empty();
        // Pods that are to go may be waited for, in this activator or in another.
        let unfinished = self.decision.replicas != self.observed.seen.replicas;
        self.decision.look_again.or_else(|| (rolling || unfinished).then(|| Duration::from_secs(1)))
    }
}

async fn carry_out(client: &Client, key: &FunctionKey, order: &Order) -> Result<Option<u32>, String> {
    if !order.delete_first.is_empty() {
        let marked = scale::mark_cheap(client, &key.namespace, &order.delete_first).await;
        marked.map_err(|error| error.explain())?;
    }
    let Order { revision, replicas, unless_changed, .. } = order;
    let scaled = scale::set_replicas(client, key, revision, *replicas, unless_changed.as_deref()).await;
    match scaled {
        Ok(()) => Ok(Some(*replicas)),
        Err(error) if error.conflict() => {
            // The watch will say what it is now.
            tokio::time::sleep(COALESCE).await;
            Ok(None)
        }
        Err(error) => Err(error.explain()),
    }
}
