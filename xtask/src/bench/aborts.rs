//! `cargo xtask bench aborts`: the activator's test of clients that leave at any moment, with as many requests
//! as wanted.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{paths, run};

/// The test.
const TEST: &str = "proxy::aborts::after_any_mix_of_aborts_every_count_is_zero_and_every_slot_is_there";

#[derive(Debug, Args)]
pub(crate) struct AbortsArgs {
    /// How many requests; three in ten are given up by their client
    #[arg(long, default_value_t = 1_000_000)]
    requests: u32,
}

pub(super) fn bench(args: &AbortsArgs) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::workspace()).env("PILOTLIGHT_ABORTS", args.requests.to_string());
    cargo.args([
        "test",
        "--release",
        "--package",
        "pilotlight-activator",
        "--test",
        "it",
        "--",
        "--exact",
        TEST,
    ]);
    run::run(&mut cargo)
}
