//! An owner and what its peers tell it, step by step.

use super::*;
use crate::peer::members::Seat;

const LIMIT: u32 = 10;

fn at(start: Instant, millis: u64) -> Instant {
    start + Duration::from_millis(millis)
}

fn view(peers: &[(&str, u64, bool)]) -> View<()> {
    let seat = |session, live| Seat { session, live, leaving: false, handle: () };
    let peers = peers.iter().map(|(id, session, live)| ((*id).into(), seat(*session, *live)));
    View { me: Some("me".into()), leaving: false, settled: true, peers: peers.collect() }
}

fn pods<const N: usize>(pods: [(&str, u32); N]) -> ByPod {
    pods.into_iter().map(|(pod, count)| (pod.to_owned(), count)).collect()
}

/// `held` wait, the oldest for `waited` milliseconds.
fn wants(claim: u64, held: u32, waited: u64, got: u64) -> Up {
    Up { claim, load: Load { held, ..Load::default() }, waited, got, ..Up::default() }
}

/// An owner whose peers hold so much.
fn owner<const N: usize>(holds: [(&str, ByPod); N], now: Instant) -> Ledger {
    let mut ledger = Ledger::default();
    let peers: Vec<_> = holds.iter().map(|(id, _)| (*id, 1, true)).collect();
    ledger.attend(&view(&peers), now);
    assert!(!ledger.claimed());
    for (id, holds) in holds {
        assert!(ledger.tell(&id.into()).unwrap().asks, "who has not claimed is asked to");
        ledger.hear(&id.into(), Up { claim: 1, holds: Some(holds), ..Up::default() }, now);
        ledger.tell(&id.into()).expect("a claim is answered");
    }
    assert!(ledger.claimed() && ledger.complete());
    ledger
}

#[test]
fn what_is_lent_is_counted_until_it_comes_back() {
    let now = Instant::now();
    let mut ledger = owner([("a", pods([("p", 2)])), ("b", pods([("p", 3), ("q", 1)]))], now);
    assert_eq!((ledger.lent("p"), ledger.lent("q"), ledger.lent_in_all()), (5, 1, 6));
    ledger.lend(&"a".into(), "q");
    assert_eq!(ledger.lent("q"), 2);
    let told = ledger.tell(&"a".into()).unwrap();
    assert_eq!((told.granted, ledger.tell(&"a".into())), (pods([("q", 1)]), None));
    ledger.hear(&"b".into(), Up { claim: 1, returned: pods([("p", 2), ("q", 9)]), ..Up::default() }, now);
    assert_eq!((ledger.lent("p"), ledger.lent("q")), (3, 1), "no more comes back than was lent");
    ledger.forget("p");
    assert_eq!(ledger.lent_in_all(), 1);
}

#[test]
fn a_newer_claim_is_the_truth_and_what_was_said_before_is_void() {
    let now = Instant::now();
    let mut ledger = owner([("a", pods([("p", 5)]))], now);
    ledger.lend(&"a".into(), "p");
    ledger.hear(&"a".into(), Up { claim: 2, holds: Some(pods([("p", 3)])), ..Up::default() }, now);
    assert_eq!(ledger.lent("p"), 3);
    let told = ledger.tell(&"a".into()).unwrap();
    assert_eq!((told.claim, told.granted), (2, pods([])), "what was lent before is not said any more");
    ledger.hear(&"a".into(), Up { claim: 1, returned: pods([("p", 3)]), ..Up::default() }, now);
    assert_eq!(ledger.lent("p"), 3, "an older claim's leases do not come back twice");
}

#[test]
fn leases_under_way_are_not_wanted_twice() {
    let now = Instant::now();
    let mut ledger = owner([("a", pods([]))], now);
    let a = "a".into();
    ledger.hear(&a, wants(1, 3, 5, 0), now);
    assert_eq!(ledger.hungry(), [(now - Duration::from_millis(5), a.clone())]);
    ledger.lend(&a, "p");
    ledger.lend(&a, "p");
    assert_eq!(ledger.want(&a), 1);
    ledger.hear(&a, wants(1, 4, 6, 0), now);
    assert_eq!(ledger.want(&a), 2, "four wait, and two leases are on their way");
    ledger.hear(&a, wants(1, 2, 6, 2), now);
    assert_eq!(ledger.want(&a), 2, "they have come, and two wait still");
    ledger.hear(&a, wants(1, 0, 0, 2), now);
    assert!(ledger.hungry().is_empty());
}

#[test]
fn whose_request_is_older_comes_first_and_others_are_asked_back() {
    let now = Instant::now();
    let mut ledger = owner([("a", pods([("p", 2)])), ("b", pods([("p", 4)])), ("c", pods([]))], now);
    ledger.hear(&"b".into(), wants(1, 2, 10, 0), now);
    ledger.hear(&"c".into(), wants(1, 3, 20, 0), now);
    let hungry: Vec<_> = ledger.hungry().into_iter().map(|(_, id)| id.to_string()).collect();
    assert_eq!(hungry, ["c", "b"]);

    // Three at c and one here have waited longer than those of b; a has nobody waiting.
    let own = Some((1, now - Duration::from_millis(15)));
    ledger.recall(LIMIT, own, now);
    let mut recall = |id: &str| ledger.tell(&id.into()).and_then(|told| told.recall);
    assert_eq!((recall("a"), recall("b"), recall("c")), (Some(2), Some(1), None), "a few, or all it has");
    ledger.recall(LIMIT, own, now);
    assert_eq!(ledger.untold().count(), 0, "once is enough");
    ledger.hear(&"b".into(), wants(1, 0, 0, 0), now);
    ledger.hear(&"c".into(), wants(1, 0, 0, 0), now);
    ledger.recall(LIMIT, None, now);
    let mut recall = |id: &str| ledger.tell(&id.into()).and_then(|told| told.recall);
    assert_eq!((recall("a"), recall("b")), (Some(0), Some(0)), "nobody waits any longer");
}

#[test]
fn a_slot_moves_only_to_somebody_who_has_waited_notably_longer() {
    let start = Instant::now();
    let now = at(start, 100);
    // The oldest where the slot is has waited for so many milliseconds, and somebody elsewhere for 100.
    let waited = |millis: u64| now - Duration::from_millis(millis);
    for (here, moves) in [(0, true), (50, true), (79, true), (80, false), (99, false), (100, false)] {
        assert_eq!(comes_before(start, waited(here), now), moves, "{here}");
    }
    assert!(!comes_before(waited(1), waited(0), now), "a message takes about as long");

    let mut ledger = owner([("a", pods([("p", 8)])), ("b", pods([]))], now);
    ledger.hear(&"a".into(), wants(1, 5, 90, 0), now);
    ledger.hear(&"b".into(), wants(1, 5, 100, 0), now);
    ledger.recall(LIMIT, None, now);
    assert_eq!(ledger.untold().count(), 0);
    ledger.hear(&"a".into(), wants(1, 5, 60, 0), now);
    ledger.recall(LIMIT, None, now);
    assert_eq!(ledger.tell(&"a".into()).unwrap().recall, Some(2), "not all five at once");
}

#[test]
fn what_is_lent_above_a_limit_is_asked_back() {
    let now = Instant::now();
    let mut ledger = owner([("a", pods([("p", 8), ("q", 3)])), ("b", pods([("p", 1)]))], now);
    ledger.recall(6, None, now);
    assert_eq!(ledger.tell(&"a".into()).unwrap().recall, Some(3));
    assert_eq!(ledger.tell(&"b".into()).unwrap().recall, Some(1));
}

#[test]
fn the_dead_hold_nothing_and_the_silent_keep_what_they_hold_for_a_while() {
    let (start, total) = (Instant::now(), Duration::from_secs(300));
    let mut ledger = owner([("a", pods([("p", 2)])), ("b", pods([("p", 3)]))], start);
    ledger.hear(&"b".into(), wants(1, 1, 0, 0), start);
    ledger.attend(&view(&[("b", 1, false), ("new", 1, false)]), at(start, 1_000));
    assert_eq!((ledger.lent("p"), ledger.members()), (3, 1));
    assert!(ledger.claimed() && !ledger.complete(), "waited for by nobody, but not forgotten");
    assert!(ledger.hungry().is_empty(), "nothing is lent to it");
    assert_eq!(ledger.load(), Load { in_flight: 3, held: 1, arrivals: 0 }, "it may be using all it has");
    ledger.attend(&view(&[("b", 1, false)]), at(start, 2_000));
    assert!(!ledger.expire(total, at(start, 300_999)));
    assert!(ledger.expire(total, at(start, 301_000)) && ledger.is_empty());
}

#[test]
fn a_new_connection_is_a_new_beginning() {
    let now = Instant::now();
    let mut ledger = owner([("a", pods([("p", 2)]))], now);
    ledger.attend(&view(&[("a", 2, true)]), now);
    assert_eq!((ledger.lent("p"), ledger.claimed()), (0, false));
    ledger.hear(&"a".into(), Up { claim: 1, returned: pods([("p", 1)]), ..Up::default() }, now);
    assert!(!ledger.claimed());
}

#[test]
fn a_pod_is_idle_only_when_everybody_has_said_so() {
    let now = Instant::now();
    let mut ledger = owner([("a", pods([])), ("b", pods([]))], now);
    let answer = |version, busy: &[&str]| {
        let pods = busy.iter().map(|pod| (*pod).to_owned()).collect();
        Up { claim: 1, busy: Some(Going { version, pods }), ..Up::default() }
    };
    assert!(ledger.busy("p"), "nobody was asked");
    ledger.set_going(["p".to_owned(), "q".to_owned()].into());
    let told = ledger.tell(&"a".into()).unwrap().going.unwrap();
    assert_eq!(told.version, 1);
    ledger.hear(&"a".into(), answer(1, &[]), now);
    assert!(ledger.busy("p"), "b has not answered");
    ledger.hear(&"b".into(), answer(1, &["p"]), now);
    assert!(ledger.busy("p") && ledger.known_busy("p") && !ledger.busy("q"));
    ledger.hear(&"b".into(), answer(1, &[]), now);
    assert!(!ledger.busy("p"));
    ledger.set_going(["p".to_owned()].into());
    assert!(ledger.busy("p"), "an answer to an older list is none");
    assert!(!Ledger::default().busy("p"), "alone, nobody has to be asked");
}

#[test]
fn unreachable_pods_are_named_once_and_not_lent() {
    let now = Instant::now();
    let mut ledger = owner([("a", pods([]))], now);
    let up = || Up { unreachable: ["p".to_owned()].into(), ..wants(1, 1, 0, 0) };
    assert_eq!(ledger.hear(&"a".into(), up(), now), ["p"]);
    assert!(ledger.hear(&"a".into(), up(), now).is_empty());
    assert!(!ledger.reaches(&"a".into(), "p") && ledger.reaches(&"a".into(), "q"));
    ledger.hear(&"a".into(), wants(1, 1, 0, 0), now);
    assert!(ledger.reaches(&"a".into(), "p"));
}
