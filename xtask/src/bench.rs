//! `cargo xtask bench`: the measurements of the package `pilotlight-tests`, on a cluster of their own.

use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::site::{Site, SiteArgs};
use crate::{images, paths, run};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    what: Measurement,
    #[command(flatten)]
    site: SiteArgs,
    /// Passed on to the measurement
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Measurement {
    /// From a request at zero to its answer
    Cold,
}

impl Measurement {
    fn program(self) -> &'static str {
        match self {
            Self::Cold => "bench-cold",
        }
    }
}

/// Runs one measurement.
pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    let program = args.what.program();
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::workspace()).args(["build", "--quiet", "--release", "--bin", program]);
    run::run(cargo.args(["--package", "pilotlight-tests"]))?;
    let archives = if args.site.kubeconfig.is_none() { images::build(&[])? } else { Vec::new() };
    let (_owned, site) = Site::prepare(&args.site, 1)?;
    site.load(&archives)?;
    site.install()?;
    let program = paths::workspace().join("target/release").join(program);
    run::run(site.command(&program.to_string_lossy()).args(&args.arguments))
}
