//! START HERE (`cargo xtask bench proxy`): the activator beside other proxies, in one run.
//!
//! Every proxy gets one core, with one thread; the load and the backend share another. All are started once,
//! and take turns in rounds, so that what else the machine does meets all of them. What counts is each
//! one's ratio to HAProxy within a round, so nothing here depends on how fast the machine is.
//!
//! Reading order: this file, `loads` (what is measured), `peers` (what it is measured beside, and how that is
//! configured), `driver` (the program that makes the load), `pinned` (processes on a core of their own),
//! `results` (ratios), `report` (Markdown).

mod driver;
mod loads;
mod peers;
mod pinned;
mod record;
mod report;
mod results;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::programs::{self, Programs};
use crate::{interrupt, paths, tools};
use driver::Driver;
use loads::{CALIBRATION, Load, Order};
use peers::{Peer, Site};
use pinned::First;
use results::Results;

pub(crate) use record::record;

/// Of HAProxy's throughput, for the latencies.
const PART_LOAD: f64 = 0.5;

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Two short rounds: a look in two minutes, not a result
    #[arg(long)]
    quick: bool,
    /// How often every peer has its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds that each load counts
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Only these loads
    #[arg(long, value_enum, value_delimiter = ',')]
    loads: Vec<Load>,
    /// Only these peers; ratios need haproxy
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Print the tables without writing them into docs/benchmarks.md
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn bench(args: &ProxyArgs) -> Result<()> {
    ensure!(args.seconds > 0.0 && args.seconds <= 60.0, "--seconds: above 0, and at most 60");
    let (mut loads, peers) = (chosen(&args.loads), chosen(&args.peers));
    // Memory that other loads have left behind would be used again.
    loads.sort_by_key(|load| *load != Load::Idle);
    let (rounds, seconds) = if args.quick { (2, 0.7) } else { (args.rounds, args.seconds) };
    let site = site(programs::build("bench-proxy")?)?;
    let _first = First::of_all();
    let mut driver = Driver::start(&site)?;
    let running = peers.iter().map(|peer| peer.start(&site)).collect::<Result<Vec<_>>>()?;
    let mut order = Order { per_second: 0.0, seconds };
    if let Some(haproxy) = running.iter().find(|running| running.peer == Peer::Haproxy) {
        order.per_second = PART_LOAD * driver.run(CALIBRATION, haproxy, order)?.per_second;
    }
    let mut results = Results::default();
    for round in 0..rounds {
        for load in &loads {
            let order = Order { seconds: load.window(seconds), ..order };
            for turn in 0..load.turns() {
                // The other way round every other time: who comes first is nobody's advantage.
                let forth = (round + turn) % 2 == 0;
                let all: Vec<_> =
                    if forth { running.iter().collect() } else { running.iter().rev().collect() };
                for running in all.into_iter().filter(|running| load.fits(running.peer)) {
                    interrupt::check()?;
                    let outcome = driver.run(*load, running, order);
                    let outcome =
                        outcome.with_context(|| format!("{} of {}", load.name(), running.peer.name()))?;
                    eprintln!("round {}: {}, {}: {outcome}", round + 1, load.title(), running.peer.name());
                    results.add(*load, running.peer, outcome);
                }
            }
        }
    }
    let text = report::markdown(&results, &site.versions()?, order);
    println!("{text}");
    if args.dry_run || args.quick { Ok(()) } else { report::write(&text) }
}

/// What was asked for; all, if nothing was.
fn chosen<T: clap::ValueEnum + Clone>(asked: &[T]) -> Vec<T> {
    if asked.is_empty() { T::value_variants().to_vec() } else { asked.to_vec() }
}

/// Installs what is needed besides, and finds a place for everything.
fn site(programs: Programs) -> Result<Site> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "this takes two cores: one for the proxy, one for the load and the backend");
    let proxies = tools::proxies()?;
    let folder = paths::workspace().join("target/bench-proxy");
    fs::create_dir_all(&folder)?;
    Ok(Site {
        proxies,
        activator: programs.activator,
        driver: programs.load,
        folder,
        backend: free_address()?,
        h2c: false,
        load_core: 0,
        proxy_core: cores - 1,
    })
}

/// An address that nobody uses.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
