//! Who gets a slot, who waits, who is told that it takes too long.

use super::*;

const BOUNDS: HoldBounds = HoldBounds { requests: 100, bytes: 1_000 };

const TIMEOUT: Duration = Duration::from_secs(30);

fn slots(concurrency: u32, pods: &[&'static str]) -> Slots<u32, &'static str> {
    let mut slots = Slots::new(TIMEOUT);
    for pod in pods {
        slots.open(*pod, Limit::new(concurrency).get().unwrap_or(u32::MAX));
    }
    slots
}

fn open(slots: &mut Slots<u32, &'static str>, pod: &'static str, room: u32) -> Vec<Grant<u32, &'static str>> {
    slots.open(pod, room);
    std::iter::from_fn(|| slots.next(Instant::now())).collect()
}

/// A request leaves pod `a`; who is next?
fn release(slots: &mut Slots<u32, &'static str>, now: Instant) -> Option<u32> {
    slots.put_back(&"a");
    slots.next(now).map(|grant| grant.waiter)
}

fn served(grants: &[Grant<u32, &'static str>]) -> Vec<(u32, &'static str)> {
    grants.iter().map(|grant| (grant.waiter, grant.pod)).collect()
}

#[test]
fn the_pod_with_the_least_in_flight_is_taken_and_the_limit_is_hard() {
    let mut slots = slots(2, &["a", "b"]);
    let taken: Vec<_> = std::iter::from_fn(|| slots.take(None)).collect();
    assert_eq!(taken, ["a", "b", "a", "b"]);
    assert_eq!(slots.in_flight(), 4);
}

#[test]
fn a_preferred_pod_is_taken_while_it_has_room() {
    let mut slots = slots(1, &["a", "b"]);
    assert_eq!(slots.take(Some(&"b")), Some("b"));
    assert_eq!(slots.take(Some(&"b")), Some("a"), "full: another serves");
    assert_eq!(slots.take(Some(&"b")), None);
}

#[test]
fn no_limit_takes_any_number() {
    let mut slots = slots(0, &["a"]);
    assert!((0..10_000).all(|_| slots.take(None) == Some("a")));
}

#[test]
fn a_new_pod_gets_what_it_can_hold_and_not_the_whole_queue() {
    let mut slots = slots(2, &[]);
    for waiter in 0..5 {
        slots.hold(waiter, 1, BOUNDS, Instant::now()).unwrap();
    }
    assert_eq!(served(&open(&mut slots, "a", 2)), [(0, "a"), (1, "a")]);
    assert_eq!(release(&mut slots, Instant::now()), Some(2), "the oldest is next");
    assert_eq!((slots.held(), slots.in_flight()), (2, 2));
}

#[test]
fn nobody_overtakes_those_who_wait() {
    let mut slots = slots(1, &["a"]);
    assert_eq!(slots.take(None), Some("a"));
    slots.hold(7, 1, BOUNDS, Instant::now()).unwrap();
    slots.close(&"a");
    assert_eq!(slots.take(None), None);
    assert_eq!(served(&open(&mut slots, "b", 1)), [(7, "b")]);
}

#[test]
fn those_who_leave_free_their_place() {
    let mut slots = slots(1, &[]);
    let tickets: Vec<_> =
        (0..3).map(|waiter| slots.hold(waiter, 300, BOUNDS, Instant::now()).unwrap().ticket).collect();
    assert_eq!(slots.hold(9, 300, BOUNDS, Instant::now()), Err((9, Full::Bytes)));
    slots.leave(tickets[1]);
    slots.leave(tickets[1]);
    slots.hold(3, 300, BOUNDS, Instant::now()).unwrap();
    slots.leave(tickets[0]);
    assert_eq!(served(&open(&mut slots, "a", 1)), [(2, "a")]);
    slots.leave(tickets[2]);
    assert_eq!(release(&mut slots, Instant::now()), Some(3));
    assert_eq!((slots.holding(), slots.line.oldest()), (Holding::default(), None));
}

#[test]
fn bounds_are_kept() {
    let mut slots = slots(1, &[]);
    let two = HoldBounds { requests: 2, bytes: 1_000 };
    assert!(slots.hold(0, 1, two, Instant::now()).is_ok() && slots.hold(1, 1, two, Instant::now()).is_ok());
    assert_eq!(slots.hold(2, 1, two, Instant::now()), Err((2, Full::Requests)));
}

#[test]
fn a_closed_pod_finishes_what_it_has_and_is_forgotten() {
    let mut slots = slots(2, &["a"]);
    slots.take(None).unwrap();
    slots.close(&"a");
    assert_eq!((slots.take(None), slots.in_flight_on(&"a"), slots.open_pods()), (None, 1, 0));
    assert_eq!(release(&mut slots, Instant::now()), None);
    assert!(slots.pods.is_empty());
    assert_eq!(release(&mut slots, Instant::now()), None, "a second release changes nothing");
    assert_eq!(slots.in_flight(), 0);
}

/// When the queue of [`deep`] has been so for long enough.
fn lasting(start: Instant) -> Instant {
    start + TIMEOUT / 60
}

/// One pod, and 41 that wait, as many as before when one was served.
fn deep(start: Instant) -> Slots<u32, &'static str> {
    let mut slots = slots(1, &["a"]);
    assert_eq!(slots.take(None), Some("a"));
    for waiter in 0..41 {
        slots.hold(waiter, 10, BOUNDS, start).unwrap();
    }
    assert_eq!(release(&mut slots, start), Some(0), "in order at first");
    slots.hold(41, 10, BOUNDS, start).unwrap();
    slots
}

#[test]
fn under_overload_the_newest_go_first_and_the_oldest_are_told() {
    let start = Instant::now();
    let mut slots = deep(start);
    let later = lasting(start);
    assert!(!slots.overloaded() && slots.expire(later).is_empty());
    assert_eq!(release(&mut slots, later), Some(41), "the newest");
    assert!(slots.overloaded() && slots.expire(later).is_empty());
    slots.hold(50, 10, BOUNDS, later).unwrap();
    assert_eq!(slots.expire(start + TIMEOUT / 5), (1..41).collect::<Vec<_>>());
    assert_eq!(slots.holding(), Holding { requests: 1, bytes: 10 });
}

#[test]
fn under_overload_the_oldest_make_room() {
    let start = Instant::now();
    let mut slots = deep(start);
    let bounds = HoldBounds { requests: 41, bytes: 430 };
    assert_eq!(slots.hold(60, 10, bounds, start), Err((60, Full::Requests)), "not before");
    release(&mut slots, lasting(start));
    assert!(slots.hold(61, 10, bounds, start).unwrap().pushed_out.is_empty());
    assert_eq!(slots.hold(62, 10, bounds, start).unwrap().pushed_out, [1]);
    assert_eq!(slots.hold(63, 50, bounds, start).unwrap().pushed_out, [2, 3, 4]);
    assert_eq!(slots.hold(64, 431, bounds, start), Err((64, Full::Bytes)), "it never fits");
    assert_eq!(slots.held(), 39);
}

#[test]
fn a_held_request_goes_to_the_pod_it_prefers_if_that_is_free() {
    let mut slots = slots(1, &[]);
    for waiter in 0..2 {
        slots.hold(waiter, 1, BOUNDS, Instant::now()).unwrap();
    }
    slots.open("a", 1);
    slots.open("b", 1);
    let next = || slots.next_by(Instant::now(), |_| Some(&"b"));
    let granted: Vec<_> = std::iter::from_fn(next).collect();
    assert_eq!(served(&granted), [(0, "b"), (1, "a")]);
}

#[test]
fn silent_pods_are_used_only_while_all_are_silent() {
    // Pods that are open, of these the silent ones, those that requests go to.
    let rows: [(&[&str], &[&str], &[&str]); 6] = [
        (&["a", "b", "c"], &[], &["a", "b", "c"]),
        (&["a", "b", "c"], &["b"], &["a", "c"]),
        (&["a", "b", "c"], &["a", "b"], &["c"]),
        (&["a", "b"], &["a", "b"], &["a", "b"]),
        (&["a"], &["a"], &["a"]),
        (&["a"], &["a", "b"], &["a"]),
    ];
    for (opened, silent, used) in rows {
        let mut slots = slots(1, &["a", "b", "c"]);
        silent.iter().for_each(|pod| slots.set_silent(pod, true));
        ["a", "b", "c"].iter().filter(|pod| !opened.contains(pod)).for_each(|pod| slots.close(pod));
        assert_eq!((slots.open_pods(), slots.free() as usize), (used.len(), used.len()), "{silent:?}");
        assert!(opened.iter().all(|pod| slots.is_open(pod) == used.contains(pod)), "{silent:?}");
        let preferred = slots.take(Some(&"b"));
        assert_eq!(preferred == Some("b"), used.contains(&"b"), "{silent:?}: though it is preferred");
        let mut taken: Vec<_> =
            preferred.into_iter().chain(std::iter::from_fn(|| slots.take(None))).collect();
        taken.sort_unstable();
        assert_eq!(taken, used, "{silent:?}");
        slots.hold(1, 1, BOUNDS, Instant::now()).unwrap();
        opened.iter().for_each(|pod| slots.set_silent(pod, false));
        let waits = slots.next(Instant::now()).is_none();
        assert_eq!(waits, used == opened, "{silent:?}: one that is heard again takes who waits");
    }
}

#[test]
fn what_is_lent_is_gone_until_there_is_room_again() {
    let mut slots = slots(2, &["a", "b"]);
    assert_eq!(slots.lend(|pod| *pod == "b"), Some("b"));
    assert_eq!((slots.free(), slots.in_flight()), (3, 0));
    assert_eq!(slots.take(None), Some("a"), "it has the most room");
    slots.set_room(&"a", 0);
    assert_eq!(
        (slots.take(None), slots.take(None)),
        (Some("b"), None),
        "more in flight than room is no room"
    );
    assert_eq!(slots.lend(|_| true), None);
    slots.put_back(&"a");
    assert_eq!(slots.take(None), None);
    slots.set_room(&"a", 1);
    assert_eq!(slots.take(None), Some("a"));
}
