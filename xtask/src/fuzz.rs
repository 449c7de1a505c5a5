//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer, each for a few seconds.
//!
//! Built with stable Rust: `fuzz/rustc.sh` puts counters into our own crates, and dependencies stay as they are for
//! everything else.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::cargo::executable;
use crate::{paths, run};

/// Time for each target. It is not for finding everything: what a change breaks shows soon, as the seeds lead to
/// most branches.
const SECONDS: u32 = 8;
/// Longer inputs find little more, and take longer.
const LONGEST: u32 = 1024;

#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Only this target: a folder of fuzz/corpus
    target: Option<String>,
    /// For so long each
    #[arg(long, default_value_t = SECONDS)]
    seconds: u32,
}

impl Default for FuzzArgs {
    fn default() -> Self {
        Self { target: None, seconds: SECONDS }
    }
}

/// Runs the targets one after the other.
pub(crate) fn fuzz(args: &FuzzArgs) -> Result<()> {
    let program = build()?;
    let targets = match &args.target {
        Some(target) => vec![target.clone()],
        None => targets()?,
    };
    for target in targets {
        let executions = run_target(&program, &target, args.seconds)?;
        println!("{target}: {executions} executions in {} s", args.seconds);
    }
    Ok(())
}

/// Every target has a folder of seeds.
fn targets() -> Result<Vec<String>> {
    let folders = fs::read_dir(folder().join("corpus")).context("reading fuzz/corpus")?;
    let names: Result<Vec<_>, _> =
        folders.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect();
    let mut names = names?;
    names.sort();
    Ok(names)
}

fn folder() -> PathBuf {
    paths::workspace().join("fuzz")
}

fn build() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::workspace())
        .env("RUSTC_WORKSPACE_WRAPPER", folder().join("rustc.sh"))
        .args("build --quiet --package pilotlight-fuzz --message-format=json-render-diagnostics".split(' '));
    executable(&run::printed(&mut cargo)?, "pilotlight-fuzz").context("cargo names no fuzzer")
}

/// How often the target ran. What was found to be new goes to `target/fuzz`, and so does an input that breaks
/// something.
fn run_target(program: &Path, target: &str, seconds: u32) -> Result<u64> {
    let found = paths::workspace().join("target/fuzz").join(target);
    fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
    let log = found.with_extension("log");
    let mut fuzzer = Command::new(program);
    fuzzer
        .env("PILOTLIGHT_FUZZ", target)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={LONGEST}"))
        .arg(format!("-dict={}", folder().join("http1.dict").display()))
        .arg(format!("-artifact_prefix={}-", found.display()))
        .args(["-verbosity=0", "-print_final_stats=1"])
        .args([&found, &folder().join("corpus").join(target)])
        .stderr(File::create(&log).with_context(|| format!("writing {}", log.display()))?);
    let outcome = run::run(&mut fuzzer);
    let said = fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
    outcome.with_context(|| {
        format!("{said}\nadd the input that it names to fuzz/corpus/{target}: then `cargo test -p pilotlight-fuzz` fails")
    })?;
    executions(&said).with_context(|| format!("{} says nothing of executions", log.display()))
}

fn executions(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_executions_is_read() {
        let said = "Done 70 runs in 9 second(s)\nstat::number_of_executed_units: 70\nstat::peak_rss_mb: 30\n";
        assert_eq!((executions(said), executions("")), (Some(70), None));
    }

    #[test]
    fn every_target_has_a_folder() {
        let source = fs::read_to_string(folder().join("src/targets.rs")).unwrap();
        let targets = targets().unwrap();
        assert!(targets.iter().all(|target| source.contains(&format!("(\"{target}\", "))), "{targets:?}");
        assert_eq!(source.matches("fuzzing::").count(), targets.len());
    }
}
