//! How long requests wait for a slot: the same requests at one activator, and at three that share the pods.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pilotlight_activator::function::{FunctionState, Wish};
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};

use super::activators::{Shape, activators};

const SHAPE: Shape = Shape { pods: 2, concurrency: 10 };
const SLOTS: f64 = 20.0;
const SERVICE: Duration = Duration::from_millis(100);
const LASTS: Duration = Duration::from_secs(12);

/// One request.
#[derive(Clone, Copy)]
struct Arrival {
    at: Duration,
    /// At which of three activators.
    activator: usize,
    service: Duration,
}

/// xorshift64*: the same requests in every run.
struct Chance(u64);

impl Chance {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -self.uniform().ln() * mean
    }
}

/// Requests that come at random, at a rate that keeps this share of the slots busy.
fn arrivals(load: f64, shares: [f64; 3]) -> Vec<Arrival> {
    let mut chance = Chance(42);
    let rate = load * SLOTS / SERVICE.as_secs_f64();
    let mut at = 0.0;
    std::iter::from_fn(|| {
        at += chance.exponential(1.0 / rate);
        let which = chance.uniform() * shares.iter().sum::<f64>();
        let activator = if which < shares[0] { 0 } else { usize::from(which >= shares[0] + shares[1]) + 1 };
        let service = Duration::from_secs_f64(chance.exponential(SERVICE.as_secs_f64()));
        Some(Arrival { at: Duration::from_secs_f64(at), activator, service })
    })
    .take_while(|arrival| arrival.at < LASTS)
    .collect()
}

/// How long each request waited for its slot.
async fn run(functions: Vec<Arc<FunctionState>>, arrivals: Vec<Arrival>) -> anyhow::Result<Vec<Duration>> {
    let (began, waits) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let mut requests = JoinSet::new();
    for arrival in arrivals {
        sleep_until((began + arrival.at).into()).await;
        let function = Arc::clone(&functions[arrival.activator % functions.len()]);
        let waits = Arc::clone(&waits);
        requests.spawn(async move {
            let began = Instant::now();
            let acquired = function.acquire(Wish::default()).await?;
            waits.lock().unwrap_or_else(PoisonError::into_inner).push(began.elapsed());
            sleep(arrival.service).await;
            drop(acquired);
            anyhow::Ok(())
        });
    }
    while let Some(request) = requests.join_next().await {
        request??;
    }
    let mut waits = std::mem::take(&mut *waits.lock().unwrap_or_else(PoisonError::into_inner));
    waits.sort();
    Ok(waits)
}

fn row(what: &str, waits: &[Duration]) {
    let millis = |wait: Duration| wait.as_secs_f64() * 1e3;
    let at = |share: f64| millis(waits[(waits.len() as f64 * share) as usize]);
    let mean = millis(waits.iter().sum()) / waits.len() as f64;
    println!("| {what} | {mean:.2} | {:.2} | {:.2} | {:.2} |", at(0.5), at(0.95), at(0.99));
}

pub(crate) async fn show_all() -> anyhow::Result<()> {
    println!(
        "\n| load, shares, one way between activators | mean ms | p50 | p95 | p99 |\n|---|---|---|---|---|"
    );
    let delays = [Duration::ZERO, Duration::from_millis(2)];
    for delay in delays {
        for load in [0.5, 0.8, 0.95] {
            for shares in [[1.0; 3], [150.0, 20.0, 10.0], [10.0, 20.0, 150.0]] {
                let arrivals = arrivals(load, shares);
                let (one, three) = (activators(1, SHAPE, delay).await?, activators(3, SHAPE, delay).await?);
                let functions = |activators: &[super::Activator]| {
                    activators.iter().map(|one| Arc::clone(&one.function)).collect()
                };
                let (one, three) = tokio::try_join!(
                    run(functions(&one), arrivals.clone()),
                    run(functions(&three), arrivals)
                )?;
                let what = format!("{load}, {shares:?}, {delay:?}");
                row(&format!("{what}: one"), &one);
                row(&format!("{what}: three"), &three);
            }
        }
    }
    Ok(())
}
