//! `cargo xtask test`: everything that says whether this checkout is good.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cargo::executable;
use crate::fuzz::{self, FuzzArgs};
use crate::site::{Site, SiteArgs};
use crate::steps::Steps;
use crate::{codegen, images, paths, run, tidy, tools};

/// The package whose tests need a cluster.
const CLUSTER_TESTS: &str = "pilotlight-tests";

/// Two, so that pods, Services and activators work across nodes too.
const NODES: u8 = 2;

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Run only the end-to-end tests whose names contain this
    #[arg(long)]
    filter: Option<String>,
    /// Leave out the end-to-end tests
    #[arg(long, conflicts_with_all = ["kubeconfig", "filter"])]
    no_cluster: bool,
    /// Only the end-to-end tests
    #[arg(long, conflicts_with = "no_cluster")]
    only_cluster: bool,
}

/// Runs all steps and prints what came of each.
pub(crate) fn test(args: &TestArgs) -> Result<()> {
    let automated = std::env::var("CI").is_ok_and(|value| value == "true");
    if automated && (args.no_cluster || args.only_cluster || args.filter.is_some()) {
        bail!("with CI=true everything runs: leave out --no-cluster, --only-cluster and --filter");
    }
    let mut steps = Steps::default();
    if !args.only_cluster {
        without_cluster(&mut steps);
    }
    if !args.no_cluster {
        with_cluster(&mut steps, args);
    }
    steps.finish()
}

fn without_cluster(steps: &mut Steps) {
    steps.run("format", || cargo("fmt --all --check"));
    steps.run("lints", || cargo("clippy --quiet --workspace --all-targets -- -D warnings"));
    steps.run("unit tests", || {
        cargo(&format!("test --quiet --workspace --exclude {CLUSTER_TESTS}"))?;
        cargo(&format!("test --quiet --package {CLUSTER_TESTS} --lib --bins"))
    });
    steps.run("h2spec", h2spec);
    steps.run("autobahn", autobahn);
    steps.run("fuzz", || fuzz::fuzz(&FuzzArgs::default()));
    steps.run("generated files", codegen::check);
    steps.run("tidy", tidy::check);
    steps.run("dependencies", dependencies);
}

/// HTTP/2 conformance, beside bare hyper.
fn h2spec() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::workspace()).env("PILOTLIGHT_H2SPEC", tools::h2spec()?);
    run::run(
        cargo.args("test --quiet --package pilotlight-activator --test h2spec -- --nocapture".split(' ')),
    )
}

/// WebSocket conformance, with and without the activator in the middle.
fn autobahn() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::workspace()).env("PILOTLIGHT_AUTOBAHN", tools::autobahn()?);
    run::run(
        cargo.args("test --quiet --package pilotlight-activator --test autobahn -- --nocapture".split(' ')),
    )
}

/// Licences, sources and banned crates. Known vulnerabilities need a database that is fetched anew
/// each time, which would make this depend on the day and on the network.
fn dependencies() -> Result<()> {
    let mut deny = Command::new(tools::cargo_deny()?);
    deny.current_dir(paths::workspace()).args(["--workspace", "check", "bans", "licenses", "sources"]);
    run::run(&mut deny)
}

fn with_cluster(steps: &mut Steps, args: &TestArgs) {
    // Built first: two compilers beside a starting cluster would only slow both down.
    let built = steps.run("build end-to-end tests", end_to_end_tests);
    let archives = match &args.site.kubeconfig {
        Some(_) => Some(Vec::new()),
        None => steps.run("build images", || images::build(&[])),
    };
    let (Some(tests), Some(archives)) = (built, archives) else {
        steps.not_run(&["cluster", "install", "end-to-end tests"]);
        return;
    };
    // The owner lives to the end of this function, and the cluster with it.
    let Some((owned, site)) = steps.run("cluster", || Site::prepare(&args.site, NODES)) else {
        steps.not_run(&["install", "end-to-end tests"]);
        return;
    };
    let installed = steps.run("install", || site.load(&archives).and_then(|()| site.install()));
    if installed.is_some() {
        steps.run("end-to-end tests", || run_tests(&site, &tests, args.filter.as_deref()));
    } else {
        steps.not_run(&["end-to-end tests"]);
    }
    if let Some(owned) = owned {
        steps.run("take the cluster down", || owned.down());
    }
}

fn run_tests(site: &Site, tests: &Path, filter: Option<&str>) -> Result<()> {
    site.or_explain(run::run(site.command(&tests.to_string_lossy()).args(filter)))
}

/// Compiles the end-to-end tests and asks cargo where it put them.
fn end_to_end_tests() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    let words = "test --quiet --test e2e --no-run --message-format=json-render-diagnostics --package";
    cargo.current_dir(paths::workspace()).args(words.split(' ')).arg(CLUSTER_TESTS);
    executable(&run::printed(&mut cargo)?, "e2e").context("cargo names no end-to-end test program")
}

fn cargo(arguments: &str) -> Result<()> {
    run::run(Command::new("cargo").current_dir(paths::workspace()).args(arguments.split(' ')))
}
