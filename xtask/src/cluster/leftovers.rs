//! Taking a cluster down, and proving that nothing of it is left.
//!
//! Needs nothing that `up` wrote down: what belongs to a cluster is told by the names of its control
//! groups and network namespaces, so a cluster whose files are damaged, or whose `up` was killed,
//! goes as well.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use super::cgroups::Cgroups;
use super::layout::Layout;
use super::lock::Lock;
use super::network;

/// Ends and removes everything, and fails if anything is left.
pub(crate) fn down(_: &Lock) -> Result<()> {
    let layout = Layout::new();
    let cgroups = Cgroups::detect()?;
    // With the last process of a node go its mounts, all of which were made in its own namespace.
    cgroups.remove()?;
    network::remove()?;
    layout.remove()?;
    let left = leftovers(&layout, &cgroups)?;
    if !left.is_empty() {
        bail!("left over from the cluster:\n  {}", left.join("\n  "));
    }
    Ok(())
}

/// Everything on this machine that is of a cluster.
pub(crate) fn leftovers(layout: &Layout, cgroups: &Cgroups) -> Result<Vec<String>> {
    let mut left: Vec<_> = cgroups.processes().iter().map(|pid| format!("process {pid}")).collect();
    left.extend(cgroups.roots().iter().map(|group| format!("control group {}", group.display())));
    left.extend(network::namespaces().iter().map(|name| format!("network namespace {name}")));
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading the list of mounts")?;
    let root = layout.root().to_string_lossy();
    let ours = |line: &&str| line.split(' ').any(|field| Path::new(field).starts_with(layout.root()));
    left.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
    if layout.exists() {
        left.push(format!("files in {root}"));
    }
    Ok(left)
}
