//! llvm-profdata: puts together what instrumented programs have counted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{find, packages};
use crate::{cargo, run};

/// The one that knows the compiler's format: rustup's (the component `llvm-tools`), or the distribution's of the same
/// LLVM, which is installed if it is missing.
pub(crate) fn llvm_profdata() -> Result<PathBuf> {
    let libraries = run::output(Command::new("rustc").args(["--print", "target-libdir"]))?;
    let own = Path::new(libraries.trim()).with_file_name("bin").join("llvm-profdata");
    if own.is_file() {
        return Ok(own);
    }
    let version = cargo::about_rustc("LLVM version")?;
    let major = version.split('.').next().unwrap_or(&version);
    let (program, package) = (format!("llvm-profdata-{major}"), format!("llvm-{major}"));
    if find(&program).is_none() {
        packages::install(&[&package]).context("or: rustup component add llvm-tools")?;
    }
    find(&program).with_context(|| format!("no `{program}`: install {package}"))
}
