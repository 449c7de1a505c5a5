//! The pause container's program.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::Build;
use crate::{paths, run};

/// The pause binary: static, so that its image needs nothing else.
pub(crate) fn pause() -> Result<PathBuf> {
    let source = paths::workspace().join("xtask/pause/pause.c");
    let inputs = [fs::read(&source)?];
    let folder = Build { name: "pause", note: "a second", inputs: &inputs }.ensure(|folder| {
        let binary = folder.join("pause");
        run::run(Command::new("gcc").args(["-O2", "-Wall", "-static", "-s", "-o"]).arg(binary).arg(&source))
    })?;
    Ok(folder.join("pause"))
}
