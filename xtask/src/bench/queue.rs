//! `cargo xtask bench queue`: the central queue on real sockets, beside an ideal one, without a cluster.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use super::{docs, programs};
use crate::run;

#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// Seconds for each load
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Does not write the tables into docs/holding.md
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn bench(args: &QueueArgs) -> Result<()> {
    let programs = programs::build("bench-queue")?;
    let mut program = Command::new(programs.load);
    program.arg("--activator").arg(programs.activator);
    let text = run::printed(program.args(["--seconds", &args.seconds.to_string()]))?;
    println!("{text}");
    if args.dry_run { Ok(()) } else { docs::write("docs/holding.md", "cargo xtask bench queue", &text) }
}
