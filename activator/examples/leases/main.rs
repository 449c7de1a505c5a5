//! What leases cost: a request at an activator that does not own the function, with a lease at hand and
//! without; and how long requests wait for a slot at one activator and at three that share the same pods.
//! Everything is in this process, connected over loopback.
//! `cargo run --release -p pilotlight-activator --example leases`

mod activators;
mod waits;

use std::time::{Duration, Instant};

use pilotlight_activator::function::Wish;

use self::activators::{Activator, Shape, activators};

const ROUNDS: usize = 5_000;

/// Takes a slot and gives it back; how long that took.
async fn request(at: &Activator) -> anyhow::Result<Duration> {
    let began = Instant::now();
    drop(at.function.acquire(Wish::default()).await?);
    Ok(began.elapsed())
}

fn show(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |share: f64| took[(took.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("{what:<60} p50 {:>7.1} us   p99 {:>7.1} us", at(0.5), at(0.99));
}

async fn cost() -> anyhow::Result<()> {
    let two = activators(2, Shape { pods: 1, concurrency: 1 }, Duration::ZERO).await?;
    let (owner, other) = (&two[0], &two[1]);
    let (mut at_hand, mut asked, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // Each time the owner takes the only slot back, and the other has to ask for it.
        owners.push(request(owner).await?);
        asked.push(request(other).await?);
        at_hand.push(request(other).await?);
    }
    show("at another activator, with a lease at hand", at_hand);
    show("at another activator, which has to ask the owner", asked);
    show("at the owner, which has to ask the slot back", owners);
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    cost().await?;
    waits::show_all().await
}
