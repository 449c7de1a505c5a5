//! How a function is to be scaled, read from its spec once.

use std::time::Duration;

use pilotlight_crds::FunctionSpec;

/// Requests in flight per pod to aim at where the Function has neither a limit nor a target.
const DEFAULT_TARGET: f64 = 100.0;
/// Share of a hard limit to aim at, so that there is room while the next pod starts (Knative's default
/// `container-concurrency-target-percentage`).
const TARGET_SHARE: f64 = 0.7;
/// The longest look back before replicas are taken away (Knative's default `stable-window`).
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// What drives the number of replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Requests in flight and held per pod.
    Concurrency(f64),
    /// Requests per second per pod.
    RequestsPerSecond(f64),
}

/// How a function is to be scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Replicas that stay whatever the load.
    pub warm: u32,
    /// The most replicas.
    pub max: u32,
    /// Load of one pod to aim at.
    pub target: Target,
    /// Hard limit in flight per pod, if there is one.
    pub concurrency: Option<u32>,
    /// Quiet time before the last pods above `warm` go.
    pub idle_after: Duration,
    /// Time over which load is averaged before replicas are taken away.
    pub window: Duration,
}

impl Policy {
    /// The policy of a Function. Bounds are the API server's business; nonsense is clamped, not trusted.
    pub fn new(spec: &FunctionSpec) -> Self {
        let scaling = &spec.scaling;
        let concurrency = (spec.concurrency > 0).then_some(spec.concurrency);
        let target = scaling.target.as_ref();
        let target = match (target.and_then(|t| t.requests_per_second), target.and_then(|t| t.concurrency)) {
            (Some(rate), _) => Target::RequestsPerSecond(f64::from(rate.max(1))),
            (None, Some(in_flight)) => Target::Concurrency(f64::from(in_flight.max(1))),
            (None, None) => Target::Concurrency(default_target(concurrency)),
        };
        let idle_after = scaling.idle_after.get().max(Duration::from_secs(1));
        Self {
            warm: scaling.warm,
            max: scaling.max.max(scaling.warm).max(1),
            target,
            concurrency,
            idle_after,
            window: idle_after.min(LONGEST_WINDOW),
        }
    }

    /// The most requests in flight and held at once for which so many replicas are enough; `None` if that is
    /// not what more of them depend on.
    pub fn carries(&self, replicas: u32) -> Option<u32> {
        match self.target {
            _ if replicas >= self.max => None,
            // Saturates: a float is never too large.
            Target::Concurrency(target) => Some((f64::from(replicas) * target) as u32),
            Target::RequestsPerSecond(_) => None,
        }
    }
}

/// At least 1: a target below one request would ask for two pods for one request.
fn default_target(concurrency: Option<u32>) -> f64 {
    concurrency.map_or(DEFAULT_TARGET, |limit| (f64::from(limit) * TARGET_SHARE).floor().max(1.0))
}

#[cfg(test)]
mod tests {
    use pilotlight_crds::{Scaling, Span, Target as Spec};

    use super::*;

    #[track_caller]
    fn check(concurrency: u32, target: Option<Spec>, expected: Target) {
        let scaling = Scaling { target, ..Scaling::default() };
        let spec = FunctionSpec { concurrency, scaling, ..FunctionSpec::from_image("x") };
        assert_eq!(Policy::new(&spec).target, expected);
    }

    #[test]
    fn targets_follow_the_limit_unless_they_are_given() {
        check(100, None, Target::Concurrency(70.0));
        check(1, None, Target::Concurrency(1.0));
        check(2, None, Target::Concurrency(1.0));
        check(0, None, Target::Concurrency(100.0));
        check(
            100,
            Some(Spec { concurrency: Some(20), requests_per_second: None }),
            Target::Concurrency(20.0),
        );
        check(
            0,
            Some(Spec { concurrency: None, requests_per_second: Some(200) }),
            Target::RequestsPerSecond(200.0),
        );
    }

    #[test]
    fn what_replicas_carry_follows_the_target_up_to_the_most_there_may_be() {
        let policy = |target| Policy { max: 3, target, ..Policy::new(&FunctionSpec::from_image("x")) };
        let carries = |target| [0, 2, 3].map(|replicas| policy(target).carries(replicas));
        assert_eq!(carries(Target::Concurrency(1.5)), [Some(0), Some(3), None]);
        assert_eq!(carries(Target::RequestsPerSecond(10.0)), [None; 3]);
    }

    #[test]
    fn the_window_is_no_longer_than_the_quiet_time() {
        let scaling = Scaling { idle_after: Span::from_secs(5), ..Scaling::default() };
        let spec = FunctionSpec { scaling, ..FunctionSpec::from_image("x") };
        assert_eq!(Policy::new(&spec).window, Duration::from_secs(5));
    }
}
