//! Files that are generated from code and committed: people read them, and the chart ships them.
//!
//! Each is printed by an example of the crate that knows it. Running those rather than depending on
//! the crates keeps Kubernetes' types out of xtask, which has to compile in seconds.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, run};

/// One generated text, and every file that holds it.
struct Generated {
    package: &'static str,
    example: &'static str,
    files: &'static [&'static str],
}

const ALL: [Generated; 1] = [Generated {
    package: "pilotlight-crds",
    example: "crd",
    files: &["crds/yaml/function.yaml", "charts/pilotlight/crds/function.yaml"],
}];

/// Writes all generated files.
pub(crate) fn write() -> Result<()> {
    each(|file, text| {
        let path = paths::workspace().join(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).with_context(|| format!("writing {file}"))
    })
}

/// Fails if a generated file is not what would be written.
pub(crate) fn check() -> Result<()> {
    let mut stale = Vec::new();
    each(|file, text| {
        if fs::read_to_string(paths::workspace().join(file)).ok().as_deref() != Some(text) {
            stale.push(file.to_owned());
        }
        Ok(())
    })?;
    if !stale.is_empty() {
        bail!("out of date: {}; `cargo xtask codegen` writes them", stale.join(", "));
    }
    Ok(())
}

fn each(mut visit: impl FnMut(&str, &str) -> Result<()>) -> Result<()> {
    for generated in ALL {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(paths::workspace()).args(["run", "--quiet", "--package", generated.package]);
        let text = run::printed(cargo.args(["--example", generated.example]))?;
        generated.files.iter().try_for_each(|file| visit(file, &text))?;
    }
    Ok(())
}
