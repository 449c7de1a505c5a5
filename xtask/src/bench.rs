//! `cargo xtask bench`: what Pilotlight costs, beside what others cost.

mod aborts;
mod cold;
mod docs;
mod programs;
mod proxy;
mod queue;

use anyhow::Result;
use clap::Subcommand;

pub(crate) use proxy::record as record_profile;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchVerb {
    /// A million requests of which clients give up three in ten; then every count must be zero
    Aborts(aborts::AbortsArgs),
    /// From a request at zero to its answer, on a cluster
    Cold(cold::ColdArgs),
    /// Cost of a warm request beside HAProxy, nginx and Envoy, without a cluster
    Proxy(proxy::ProxyArgs),
    /// Twenty pods with one slot each beside an ideal queue, below and above capacity, without a cluster
    Queue(queue::QueueArgs),
}

/// Runs one measurement.
pub(crate) fn bench(verb: &BenchVerb) -> Result<()> {
    match verb {
        BenchVerb::Aborts(args) => aborts::bench(args),
        BenchVerb::Cold(args) => cold::bench(args),
        BenchVerb::Proxy(args) => proxy::bench(args),
        BenchVerb::Queue(args) => queue::bench(args),
    }
}
