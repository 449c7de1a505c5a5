//! Load and backend for `cargo xtask bench proxy`, which runs the peers, tells this program what to
//! measure, and makes the report.
//!
//! Reading order: this file, `drive` (orders and outcomes), `http1`, `http2`, `bulk`, `websocket` and `idle`
//! (what can be ordered), `tally` (what is counted), `wire` (just enough HTTP/1), `backend`, `process`
//! (what a process uses), `relay` (the least proxy that hyper can make).

mod backend;
mod bulk;
mod drive;
mod http1;
mod http2;
mod idle;
mod process;
mod relay;
mod tally;
mod websocket;
mod wire;

use std::net::SocketAddr;

use anyhow::Result;
use clap::Parser;

/// Load, backend and relay of `cargo xtask bench proxy`
#[derive(Debug, Parser)]
enum Role {
    /// Serve a backend, and run the loads that come on standard input as lines of JSON
    Drive {
        /// Where the backend serves
        #[arg(long)]
        backend: SocketAddr,
    },
    /// Forward every request to one address
    Relay {
        /// Where requests come in
        #[arg(long)]
        addr: SocketAddr,
        /// Where they go
        #[arg(long)]
        to: SocketAddr,
    },
}

/// Between two looks at the sockets, at most so many tasks run: the default of 61 would show in latencies
/// while the pacer spins.
const TASKS_PER_LOOK: u32 = 8;

fn main() -> Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all();
    match Role::parse() {
        Role::Drive { backend } => {
            runtime.event_interval(TASKS_PER_LOOK).build()?.block_on(drive::drive(backend))
        }
        Role::Relay { addr, to } => runtime.build()?.block_on(relay::relay(addr, to)),
    }
}
