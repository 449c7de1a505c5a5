//! cargo-deny: checks the licences and the sources of dependencies.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::{Build, find};
use crate::run;

/// Pinned: a new release may check more, and a good checkout must not turn bad by itself.
const VERSION: &str = "0.20.2";

/// The program: the user's own, else one built here.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    if let Some(own) = find("cargo-deny") {
        return Ok(own);
    }
    let inputs = [VERSION.as_bytes().to_vec()];
    let build = Build { name: "cargo-deny", note: "not on PATH, so once: about 4 minutes", inputs: &inputs };
    let folder = build.ensure(|folder| {
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "--quiet", "--locked", "--version", VERSION, "cargo-deny", "--root"]);
        run::run(cargo.arg(folder))
    })?;
    Ok(folder.join("bin/cargo-deny"))
}
