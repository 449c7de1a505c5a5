//! Decisions, row by row.

use super::{super::policy::Policy, *};

const POLICY: Policy = Policy {
    warm: 0,
    max: 20,
    target: Target::Concurrency(10.0),
    concurrency: Some(10),
    idle_after: Duration::from_secs(30),
    window: Duration::from_secs(30),
};

/// A function that this process has watched for long and that had load until now.
const SEEN: Seen = Seen {
    replicas: 0,
    ready: 0,
    in_flight: 0,
    held: 0,
    average: 0.0,
    recent_peak: 0,
    rate: 0.0,
    recent_rate: 0.0,
    quiet: Duration::ZERO,
    known: Duration::from_secs(30),
    blind: false,
};

#[track_caller]
fn check(policy: Policy, seen: Seen, replicas: u32, reason: Reason) {
    let decision = decide(&policy, &seen);
    assert_eq!((decision.replicas, decision.reason), (replicas, reason));
}

#[test]
fn up_from_what_is_there_now() {
    check(POLICY, Seen { held: 1, ..SEEN }, 1, Reason::FromZero);
    check(POLICY, Seen { held: 10, ..SEEN }, 1, Reason::FromZero);
    check(POLICY, Seen { held: 11, ..SEEN }, 2, Reason::FromZero);
    check(POLICY, Seen { held: 11, replicas: 2, ..SEEN }, 2, Reason::Steady);
    check(POLICY, Seen { in_flight: 20, held: 5, replicas: 2, ready: 2, ..SEEN }, 3, Reason::Load);
    check(POLICY, Seen { in_flight: 900, replicas: 12, ready: 12, ..SEEN }, 20, Reason::Load);
}

#[test]
fn never_two_pods_for_one_request() {
    let one = Policy { concurrency: Some(1), target: Target::Concurrency(1.0), ..POLICY };
    check(one, Seen { held: 1, ..SEEN }, 1, Reason::FromZero);
    check(one, Seen { in_flight: 1, replicas: 1, ready: 1, ..SEEN }, 1, Reason::Steady);
}

#[test]
fn a_flood_starts_no_more_pods_than_a_node_can() {
    let one = Policy { concurrency: Some(1), target: Target::Concurrency(1.0), max: 500, ..POLICY };
    check(one, Seen { held: 100, ..SEEN }, 10, Reason::FromZero);
    check(one, Seen { held: 100, replicas: 10, ready: 0, ..SEEN }, 10, Reason::Steady);
    check(one, Seen { held: 99, in_flight: 1, replicas: 10, ready: 1, ..SEEN }, 11, Reason::Load);
    check(one, Seen { held: 60, in_flight: 40, replicas: 40, ready: 40, ..SEEN }, 80, Reason::Load);
}

#[test]
fn the_warm_pool_is_kept_whatever_the_load() {
    let warm = Policy { warm: 2, ..POLICY };
    let quiet = Seen { quiet: Duration::from_secs(600), ..SEEN };
    check(warm, SEEN, 2, Reason::WarmPool);
    check(warm, Seen { held: 1, ..SEEN }, 2, Reason::WarmPool);
    check(warm, Seen { replicas: 5, ready: 5, ..quiet }, 2, Reason::Idle);
    check(warm, Seen { replicas: 2, ready: 2, ..quiet }, 2, Reason::Steady);
}

#[test]
fn down_from_averages_and_never_inside_a_burst() {
    let five = Seen { replicas: 5, ready: 5, in_flight: 1, recent_peak: 1, ..SEEN };
    check(POLICY, Seen { average: 41.0, ..five }, 5, Reason::Steady);
    check(POLICY, Seen { average: 15.0, ..five }, 2, Reason::LoadFell);
    check(POLICY, Seen { average: 15.0, recent_peak: 45, ..five }, 5, Reason::Steady);
    check(POLICY, Seen { average: 0.1, in_flight: 0, ..five }, 1, Reason::LoadFell);
}

#[test]
fn to_zero_only_after_quiet() {
    let one = Seen { replicas: 1, ready: 1, ..SEEN };
    check(POLICY, Seen { quiet: Duration::from_secs(29), ..one }, 1, Reason::Steady);
    check(POLICY, Seen { quiet: Duration::from_secs(30), ..one }, 0, Reason::Idle);
    check(POLICY, Seen { quiet: Duration::from_secs(30), replicas: 0, ..one }, 0, Reason::Steady);
}

#[test]
fn a_process_that_has_just_started_takes_nothing_away() {
    let found =
        Seen { replicas: 5, ready: 5, known: Duration::from_secs(2), quiet: Duration::from_secs(2), ..SEEN };
    check(POLICY, found, 5, Reason::Learning);
    check(POLICY, Seen { blind: true, quiet: Duration::from_secs(60), ..found }, 5, Reason::Steady);
}

#[test]
fn a_lowered_maximum_is_obeyed() {
    check(POLICY, Seen { replicas: 30, ready: 30, in_flight: 300, ..SEEN }, 20, Reason::AboveMax);
}

#[test]
fn requests_per_second_can_drive() {
    let rate = Policy { target: Target::RequestsPerSecond(100.0), concurrency: None, ..POLICY };
    let two = Seen { replicas: 2, ready: 2, in_flight: 3, ..SEEN };
    check(rate, Seen { held: 5, ..SEEN }, 1, Reason::FromZero);
    check(rate, Seen { recent_rate: 350.0, rate: 100.0, ..two }, 4, Reason::Load);
    check(rate, Seen { recent_rate: 90.0, rate: 150.0, ..two }, 2, Reason::Steady);
    check(rate, Seen { recent_rate: 90.0, rate: 80.0, ..two }, 1, Reason::LoadFell);
}

#[test]
fn time_matters_only_while_there_is_something_to_take_away() {
    assert_eq!(decide(&POLICY, &Seen { quiet: Duration::from_secs(99), ..SEEN }).look_again, None);
    assert!(decide(&POLICY, &Seen { held: 1, ..SEEN }).look_again.is_some());
}
