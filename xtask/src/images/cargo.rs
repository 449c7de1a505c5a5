//! Static release binaries of packages of this workspace.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{paths, run};

/// Builds the packages' binaries, which bear their packages' names.
pub(crate) fn release(packages: &[&str]) -> Result<Vec<PathBuf>> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let target = host_target()?;
    // A folder of its own: other flags, so nothing in it is of use to an ordinary build, and an
    // ordinary build never waits for this one's lock.
    let folder = paths::workspace().join("target/images");
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::workspace())
        .args(["build", "--release", "--quiet", "--target", &target, "--target-dir"])
        .arg(&folder)
        // With a target named, these flags reach the binaries but not build scripts and macros,
        // which cannot be static.
        .env(flags_variable(&target), "-C target-feature=+crt-static");
    for package in packages {
        cargo.args(["--package", package]);
    }
    run::run(&mut cargo)?;
    let binaries = folder.join(&target).join("release");
    Ok(packages.iter().map(|package| binaries.join(package)).collect())
}

fn host_target() -> Result<String> {
    let version = run::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say what it runs on")
}

fn flags_variable(target: &str) -> String {
    format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_reads_the_variable() {
        let variable = flags_variable("x86_64-unknown-linux-gnu");
        assert_eq!(variable, "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS");
    }
}
