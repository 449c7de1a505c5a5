//! `cargo xtask profile`: the activator counts how often each of its parts runs under the loads that it is measured
//! with, and the compiler arranges the code by that ([docs/adr/0009](../../../../docs/adr/0009-profile-guided.md)).

use std::path::Path;
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, Result};

use super::Site;
use super::driver::Driver;
use super::loads::{Load, Order};
use super::peers::{Peer, Running};
use crate::bench::programs::{self, ACTIVATOR, Programs, STANDALONE};
use crate::cargo::StaticBuild;
use crate::{interrupt, paths, run, tools};

/// What it is trained with. A share of what happens is all that counts: not for how long.
const LOADS: [Load; 7] =
    [Load::Small, Load::Medium, Load::Many, Load::Http2, Load::Download, Load::Upload, Load::Websocket];
/// And towards pods that speak HTTP/2.
const LOADS_H2C: [Load; 3] = [Load::Small, Load::Http2, Load::Download];
/// Seconds of each.
const SECONDS: f64 = 2.0;

pub(crate) fn record() -> Result<()> {
    let merge = tools::llvm_profdata()?;
    let counts = paths::workspace().join("target/profile/counts");
    remove(&counts)?;
    let site = super::site(counting(&counts)?)?;
    let mut driver = Driver::start(&site)?;
    train(&mut driver, &Peer::Pilotlight.start(&site)?, &LOADS)?;
    // The backend speaks no HTTP/2, and the relay does.
    let relay = Peer::Relay.start(&site)?;
    let behind = Site { backend: relay.http1, h2c: true, ..site };
    train(&mut driver, &Peer::Pilotlight.start(&behind)?, &LOADS_H2C)?;
    let profile = paths::profile();
    // What never ran is left out: the compiler would make it small and slow.
    run::run(Command::new(merge).args(["merge", "--sparse", "--output"]).arg(&profile).arg(&counts))?;
    eprintln!("written to {}", profile.display());
    // Cargo does not look into the profile: it would take what was built with the last one for new.
    remove(&programs::folder())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// An activator that counts, and writes what it has counted when it ends; and who makes the load, who does not.
fn counting(counts: &Path) -> Result<Programs> {
    let folder = paths::workspace().join("target/profile");
    let codegen = [format!("profile-generate={}", counts.display())];
    let activator = StaticBuild { profile: "dist", codegen: &codegen, folder: &folder }.run(&ACTIVATOR)?;
    let load = StaticBuild { profile: "release", codegen: &[], folder: &folder };
    let load = load.run(&["--package", "pilotlight-tests", "--bin", "bench-proxy"])?;
    Ok(Programs { activator: activator.folder.join(STANDALONE), load: load.folder.join("bench-proxy") })
}

fn train(driver: &mut Driver, activator: &Running, loads: &[Load]) -> Result<()> {
    for load in loads {
        interrupt::check()?;
        let outcome = driver.run(*load, activator, Order { per_second: 0.0, seconds: SECONDS });
        eprintln!("{}: {}", load.title(), outcome.with_context(|| load.name())?);
    }
    Ok(())
}
