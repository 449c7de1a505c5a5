//! `cargo xtask bench cold`: the package `pilotlight-tests` measures, on a cluster made for it.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::site::{Site, SiteArgs};
use crate::{images, paths, run};

/// The program that measures.
const PROGRAM: &str = "bench-cold";

#[derive(Debug, Args)]
pub(crate) struct ColdArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Passed on to the measurement
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(super) fn bench(args: &ColdArgs) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::workspace()).args(["build", "--quiet", "--release", "--bin", PROGRAM]);
    run::run(cargo.args(["--package", "pilotlight-tests"]))?;
    let archives = if args.site.kubeconfig.is_none() { images::build(&[])? } else { Vec::new() };
    let (_owned, site) = Site::prepare(&args.site, 1)?;
    site.load(&archives)?;
    site.install()?;
    let program = paths::workspace().join("target/release").join(PROGRAM);
    run::run(site.command(&program.to_string_lossy()).args(&args.arguments))
}
