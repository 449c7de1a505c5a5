//! The folders that xtask reads and writes.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cluster::names;

/// The root of the checkout that this xtask was built from.
pub(crate) fn workspace() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// Where built tools are kept: outside the checkout, so that all checkouts of a machine share them.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(dir) = set("PILOTLIGHT_CACHE") {
        return Ok(dir);
    }
    if let Some(dir) = set("XDG_CACHE_HOME") {
        return Ok(dir.join("pilotlight"));
    }
    let home = set("HOME").context("none of PILOTLIGHT_CACHE, XDG_CACHE_HOME and HOME is set")?;
    Ok(home.join(".cache/pilotlight"))
}

/// Where a running cluster keeps its files; gone when the cluster is down.
pub(crate) fn state() -> PathBuf {
    let usual = || PathBuf::from(format!("/var/lib/pilotlight-cluster{}", names::suffix()));
    set("PILOTLIGHT_STATE_DIR").unwrap_or_else(usual)
}

/// How often each part of the activator runs, for the compiler named; made by `cargo xtask profile`.
pub(crate) fn profile() -> PathBuf {
    workspace().join(concat!("activator/rustc-", env!("CARGO_PKG_RUST_VERSION"), ".profdata"))
}

/// Where the images of this checkout are written.
pub(crate) fn images() -> PathBuf {
    workspace().join("dist/images")
}

fn set(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}
