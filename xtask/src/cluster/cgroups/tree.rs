//! One subtree of control groups: who is in it, and how it goes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

/// Ends processes at once.
pub(super) fn kill(pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    // One that has ended meanwhile makes kill fail, which is what was wanted.
    let pids = pids.iter().map(u32::to_string);
    let _ = Command::new("kill").arg("-KILL").args(pids).stderr(Stdio::null()).status();
}

/// The processes of a group, without those of its children.
pub(super) fn pids(group: &Path) -> Vec<u32> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    // A process of another pid namespace reads as 0, and cannot be one of ours.
    list.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid != 0).collect()
}

/// The processes of a group and of everything below it.
pub(super) fn all_pids(group: &Path) -> Vec<u32> {
    let mut all = pids(group);
    for child in children(group) {
        all.extend(all_pids(&child));
    }
    all
}

fn children(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes a group and everything below it. Fails while there are processes.
pub(super) fn remove(group: &Path) -> io::Result<()> {
    for child in children(group) {
        remove(&child)?;
    }
    fs::remove_dir(group)
}
