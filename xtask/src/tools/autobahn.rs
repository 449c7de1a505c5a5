//! The cases of the Autobahn test suite for WebSocket, with a runner that works today.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::Build;
use crate::run;

/// Autobahn's own runner needs Python 2.
const KOSOKU: &str = "kosoku==0.1.0";

/// The folder that has it as a Python package.
pub(crate) fn autobahn() -> Result<PathBuf> {
    let inputs = [KOSOKU.as_bytes().to_vec()];
    let build = Build { name: "kosoku", note: "from a Python package, once", inputs: &inputs };
    build.ensure(|folder| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(folder).arg(KOSOKU);
        run::run(&mut pip)
    })
}
