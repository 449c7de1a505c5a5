//! How many replicas a function should have: a function of what was seen, and of nothing else.

use std::time::Duration;

use super::policy::{Policy, Target};

/// How many pods of one function may be starting at once, whatever the load: a node starts about ten
/// pods in two seconds, and more at once only delays the first. A function with more ready pods than
/// this may double.
const STARTS_AT_ONCE: u32 = 10;
/// How often a function with load or pods is looked at although nothing happened.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of a function at the moment of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Seen {
    /// Replicas asked for now.
    pub replicas: u32,
    /// Pods that answer.
    pub ready: u32,
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests held.
    pub held: u32,
    /// Average in flight and held over the policy's window.
    pub average: f64,
    /// The most in flight and held at once over the last tenth of the window.
    pub recent_peak: u32,
    /// Arrivals per second over the policy's window.
    pub rate: f64,
    /// Arrivals per second over the last tenth of the window.
    pub recent_rate: f64,
    /// How long there has been nothing in flight or held.
    pub quiet: Duration,
    /// How long this process has been watching the function.
    pub known: Duration,
    /// Whether there may be load that is not seen, or this process is about to end: then nothing is taken
    /// away.
    pub blind: bool,
}

/// Why a decision was made. The values of the label `reason` of `pilotlight_decisions_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Requests are held and there is no replica.
    FromZero,
    /// More is in flight and held than the replicas should carry.
    Load,
    /// The warm pool was below its size.
    WarmPool,
    /// There were more replicas than `scaling.max`.
    AboveMax,
    /// The average load has fallen.
    LoadFell,
    /// It was quiet for `scaling.idleAfter`.
    Idle,
    /// What there is fits.
    Steady,
    /// Fewer would do, but this process has not watched long enough to know.
    Learning,
}

impl Reason {
    /// All reasons, for metrics and docs.
    pub const ALL: [Self; 8] = [
        Self::FromZero,
        Self::Load,
        Self::WarmPool,
        Self::AboveMax,
        Self::LoadFell,
        Self::Idle,
        Self::Steady,
        Self::Learning,
    ];

    /// The reason as labels and status show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FromZero => "FromZero",
            Self::Load => "Load",
            Self::WarmPool => "WarmPool",
            Self::AboveMax => "AboveMax",
            Self::LoadFell => "LoadFell",
            Self::Idle => "Idle",
            Self::Steady => "Steady",
            Self::Learning => "Learning",
        }
    }
}

/// What to do, why, and when to look again if nothing happens before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Replicas to have.
    pub replicas: u32,
    /// Why.
    pub reason: Reason,
    /// When time alone may change the answer; `None` if only an event can.
    pub look_again: Option<Duration>,
}

/// Decides. Up at once, from what is held and in flight now; down from averages, never inside a burst;
/// to the warm pool (or zero) after quiet.
pub fn decide(policy: &Policy, seen: &Seen) -> Decision {
    let (replicas, reason) = replicas(policy, seen);
    let only_events_matter = replicas == policy.warm && seen.in_flight + seen.held == 0;
    let look_again = (!only_events_matter).then_some(LOOK_AGAIN);
    Decision { replicas, reason, look_again }
}

fn replicas(policy: &Policy, seen: &Seen) -> (u32, Reason) {
    let needed = needed_now(policy, seen).min(policy.max);
    let up = needed.min(startable(seen));
    if up > seen.replicas && up > policy.warm {
        return (up, if seen.replicas == 0 { Reason::FromZero } else { Reason::Load });
    }
    if seen.replicas < policy.warm {
        return (policy.warm, Reason::WarmPool);
    }
    if seen.blind || seen.replicas == policy.warm {
        return (seen.replicas, Reason::Steady);
    }
    if seen.replicas > policy.max {
        return (policy.max, Reason::AboveMax);
    }
    down(policy, seen, needed)
}

/// Fewer replicas, if the past allows it.
fn down(policy: &Policy, seen: &Seen, needed: u32) -> (u32, Reason) {
    let idle = seen.in_flight + seen.held == 0 && seen.quiet >= policy.idle_after;
    if idle {
        return (policy.warm, Reason::Idle);
    }
    let past = needed_before(policy, seen);
    // The last replica above an empty warm pool goes only after quiet.
    let fewer = past.max(needed).max(policy.warm).max(1);
    match fewer < seen.replicas {
        true if seen.known < policy.window => (seen.replicas, Reason::Learning),
        true => (fewer, Reason::LoadFell),
        false => (seen.replicas, Reason::Steady),
    }
}

/// Pods that what is in flight and held now needs. Never two for one request.
fn needed_now(policy: &Policy, seen: &Seen) -> u32 {
    let requests = seen.in_flight + seen.held;
    let by_limit = policy.concurrency.map_or(u32::from(requests > 0), |limit| requests.div_ceil(limit));
    match policy.target {
        Target::Concurrency(target) => pods(f64::from(requests), target).max(by_limit),
        Target::RequestsPerSecond(target) => pods(seen.recent_rate, target).max(by_limit),
    }
}

/// Pods that the load of the window needed, and that of its last tenth: a burst is not over because
/// its average is low.
fn needed_before(policy: &Policy, seen: &Seen) -> u32 {
    match policy.target {
        Target::Concurrency(target) => {
            pods(seen.average, target).max(pods(f64::from(seen.recent_peak), target))
        }
        Target::RequestsPerSecond(target) => pods(seen.rate.max(seen.recent_rate), target),
    }
}

/// How far up the replicas may go before those that start have started.
fn startable(seen: &Seen) -> u32 {
    seen.ready.saturating_add(seen.ready.max(STARTS_AT_ONCE))
}

fn pods(load: f64, target: f64) -> u32 {
    // A hair above a whole number is noise of the average, not load.
    (load / target - 1e-6).ceil().max(0.0) as u32
}

#[cfg(test)]
#[path = "decide/tests.rs"]
mod tests;
