//! The programs that are measured, and those that measure, built as the images are that are shipped.

use std::path::PathBuf;

use anyhow::Result;

use crate::cargo::StaticBuild;
use crate::{guided, paths};

/// Cargo's arguments for the activator without Kubernetes.
pub(super) const ACTIVATOR: [&str; 4] = ["--package", "pilotlight-activator", "--example", "standalone"];
/// Where its folder has it.
pub(super) const STANDALONE: &str = "examples/standalone";

#[derive(Debug)]
pub(super) struct Programs {
    pub(super) activator: PathBuf,
    /// What makes the load.
    pub(super) load: PathBuf,
}

/// Where they are built.
pub(super) fn folder() -> PathBuf {
    paths::workspace().join("target/bench")
}

/// Builds the activator without Kubernetes, and a program of the package `pilotlight-tests` that makes load.
pub(super) fn build(load: &str) -> Result<Programs> {
    // One by one: together they would share the features of what both need, and the profile is for the activator's.
    let activator = guided::build(&folder(), &ACTIVATOR)?;
    let programs = StaticBuild { profile: "dist", codegen: &[], folder: &folder() };
    let programs = programs.run(&["--package", "pilotlight-tests", "--bin", load])?;
    Ok(Programs { activator: activator.folder.join(STANDALONE), load: programs.folder.join(load) })
}
