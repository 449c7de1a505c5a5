//! Processes on one core each, that end with whoever started them, and that run before all others.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::run;

/// Files that a process may have open: two for each of the connections, with room.
const FILES: &str = "--nofile=16384:";

/// A running process. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) child: Child,
}

impl Pinned {
    /// A command on a core, to which arguments can be added.
    pub(super) fn command(core: usize, program: &Path) -> Command {
        let mut command = Command::new("prlimit");
        command.args([FILES, "taskset", "--cpu-list", &core.to_string()]).arg(program);
        command
    }

    /// Starts a command; what it says goes into a file.
    pub(super) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let child = run::spawn(command.stderr(log.try_clone()?).stdout(log).stdin(Stdio::null()))?;
        Ok(Self { child })
    }

    /// `prlimit` becomes `taskset`, and that the program, so this is the program's id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

/// While it lives, all that xtask starts runs before whatever else the machine does, as far as the kernel lets
/// it: sessions get equal shares of a core, and only the weight of a session counts between them.
#[derive(Debug)]
pub(super) struct First;

impl First {
    const WEIGHT_OF_SESSION: &str = "/proc/self/autogroup";

    pub(super) fn of_all() -> Self {
        if let Err(error) = fs::write(Self::WEIGHT_OF_SESSION, "-20") {
            eprintln!("what else runs here will show in the results: {}: {error}", Self::WEIGHT_OF_SESSION);
        }
        Self
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let _ = fs::write(Self::WEIGHT_OF_SESSION, "0");
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        run::stop(&mut self.child);
    }
}
