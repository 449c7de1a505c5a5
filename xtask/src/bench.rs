//! `cargo xtask bench`: what Pilotlight costs, beside what others cost.

mod aborts;
mod cold;
mod proxy;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchVerb {
    /// A million requests of which clients give up three in ten; then every count must be zero
    Aborts(aborts::AbortsArgs),
    /// From a request at zero to its answer, on a cluster
    Cold(cold::ColdArgs),
    /// Cost of a warm request beside HAProxy, nginx and Envoy, without a cluster
    Proxy(proxy::ProxyArgs),
}

/// Runs one measurement.
pub(crate) fn bench(verb: &BenchVerb) -> Result<()> {
    match verb {
        BenchVerb::Aborts(args) => aborts::bench(args),
        BenchVerb::Cold(args) => cold::bench(args),
        BenchVerb::Proxy(args) => proxy::bench(args),
    }
}
