//! `cargo xtask bench queue`: the central queue on real sockets, beside an ideal one, without a cluster.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{paths, run};

#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// Seconds for each load
    #[arg(long, default_value_t = 30)]
    seconds: u32,
}

pub(super) fn bench(args: &QueueArgs) -> Result<()> {
    build(&["--package", "pilotlight-activator", "--example", "standalone"])?;
    build(&["--package", "pilotlight-tests", "--bin", "bench-queue"])?;
    let programs = paths::workspace().join("target/release");
    let mut program = Command::new(programs.join("bench-queue"));
    program.arg("--activator").arg(programs.join("examples/standalone"));
    run::run(program.args(["--seconds", &args.seconds.to_string()]))
}

fn build(what: &[&str]) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::workspace()).args(["build", "--quiet", "--release"]);
    run::run(cargo.args(what))
}
