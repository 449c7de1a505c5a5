//! Memory of Pilotlight's processes, read from the machine that they run on.

use std::{fs, path::Path};

use anyhow::Result;

/// Entry points of the images.
const PROGRAMS: [&str; 2] = ["pilotlight-operator", "pilotlight-activator"];

/// What one process takes.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) program: &'static str,
    /// Resident, in kibibytes.
    pub(crate) rss: u64,
    /// Resident, with what it shares divided among those that share it.
    pub(crate) pss: u64,
}

/// What the processes of Pilotlight in this machine's containers take; none, if the cluster is elsewhere.
///
/// # Errors
/// When there is no /proc.
pub(crate) fn of_pilotlight() -> Result<Vec<Memory>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // A process may end while it is looked at.
        let Ok(entry) = entry else { continue };
        found.extend(read(&entry.path()));
    }
    found.sort_by_key(|memory: &Memory| (memory.program, memory.rss));
    Ok(found)
}

fn read(process: &Path) -> Option<Memory> {
    let command = fs::read(process.join("cmdline")).ok()?;
    let program = command.split(|byte| *byte == 0).next()?;
    // Images start their program at the root; a developer's own copy has a longer path.
    let program = std::str::from_utf8(program).ok()?.strip_prefix('/')?;
    let program = PROGRAMS.into_iter().find(|known| *known == program)?;
    let smaps = fs::read_to_string(process.join("smaps_rollup")).ok()?;
    let field = |name: &str| {
        let line = smaps.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some(Memory { program, rss: field("Rss:")?, pss: field("Pss:")? })
}
