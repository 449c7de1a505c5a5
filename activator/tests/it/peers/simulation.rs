//! A function in up to four activators, with nothing between them but messages that take their time.
//! Requests come and go, pods and activators too, replicas are taken away, limits change and connections
//! break, in random order; what must always hold is checked after every step.

mod activator;
mod checks;
mod world;

use std::time::Instant;

use pilotlight_activator::{function::Outbox, peer::Seat};
use tokio::task::{LocalSet, yield_now};

use self::{activator::Activator, world::World};

const STEPS: usize = 600;

async fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for step in 0..STEPS {
        let when = format!("seed {seed}, step {step}");
        world.step(&when).await;
        world.check(&when);
        if step % 150 == 149 {
            world.settle(&when).await;
            world.check_at_rest(&when);
        }
    }
    world.end(&format!("seed {seed}, at the end")).await;
}

#[tokio::test]
async fn limits_hold_no_request_waits_beside_a_free_slot_and_idle_pods_go() {
    LocalSet::new()
        .run_until(async {
            for seed in 0..90 {
                simulate(seed).await;
            }
        })
        .await;
}

/// Nobody comes, goes or is new: then what is said at once is enough, and nothing waits for the next beat.
async fn simulate_peace(seed: u64) {
    let mut world = World::new(seed * 15 + seed % 4);
    world.join();
    world.settle(&format!("seed {seed}, at the beginning")).await;
    for step in 0..STEPS {
        let when = format!("seed {seed}, step {step}");
        let at = world.chance.below(world.activators.len());
        match world.chance.below(100) {
            0..30 => world.activators[at].request(),
            30..60 => world.answer(at),
            _ => {
                world.send(at, false);
                let nth = world.chance.below(1_000);
                world.deliver(nth);
            }
        }
        world.let_run().await;
        world.check(&when);
        if step % 20 == 19 {
            for _ in 0..20 {
                (0..world.activators.len()).for_each(|at| world.send(at, false));
                while world.deliver(0) {}
                world.let_run().await;
            }
            world.check_at_rest(&when);
        }
    }
}

#[tokio::test]
async fn nothing_that_somebody_waits_for_is_told_with_the_next_beat_only() {
    LocalSet::new()
        .run_until(async {
            for seed in 0..40 {
                simulate_peace(seed).await;
            }
        })
        .await;
}

/// Nobody else but the owner has reached the pod when it lends a slot of it.
async fn lent_before_it_was_reached() {
    let mut both = [Activator::new(1, 1), Activator::new(2, 1)];
    let ids = both.each_ref().map(|one| one.id.clone());
    for (one, other) in both.iter_mut().zip(ids.iter().rev()) {
        let seat = Seat { session: 1, live: true, leaving: false, handle: Outbox::default() };
        one.seats.insert(other.clone(), seat);
        one.follow();
    }
    let [one, other] = both;
    let (owner, mut lessee) = if one.function.share().owner.is_none() { (one, other) } else { (other, one) };
    let tell = |from: &Activator, whom: &Activator| {
        let word = from.function.tell(&whom.id, true, Instant::now()).unwrap();
        whom.function.hear(&from.id, word, Instant::now());
    };
    tell(&owner, &lessee);
    lessee.request();
    yield_now().await;
    tell(&lessee, &owner);
    let _unasked = lessee.see_unasked("pod", false);
    owner.see("pod", false);
    tell(&owner, &lessee);
    yield_now().await;
    let acquired = lessee.in_flight.borrow_mut().pop().expect("it was lent a slot");
    lessee.function.first_byte(acquired.slot.pod(), Instant::now());
    let phases = lessee.function.report().cold_start.unwrap().milliseconds;
    assert!(phases.port_answers.is_some() && phases.first_byte.is_some(), "{phases:?}");
}

#[tokio::test]
async fn a_cold_start_knows_when_the_pod_answered_also_from_the_owner() {
    LocalSet::new().run_until(lent_before_it_was_reached()).await;
}
