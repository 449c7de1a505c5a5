//! Memory of Pilotlight's processes, read from the machine that they run on.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use pilotlight_tests::Cluster;

/// What one process takes.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) component: &'static str,
    /// Resident, in kibibytes.
    pub(crate) rss: u64,
    /// Resident, with what it shares divided among those that share it.
    pub(crate) pss: u64,
}

/// What the processes of operator and activator take; none, if the cluster's nodes are other machines.
///
/// # Errors
/// When there is no /proc, or the API server does not answer.
pub(crate) async fn of_pilotlight(cluster: &Cluster) -> Result<Vec<Memory>> {
    let mut found = Vec::new();
    for component in ["operator", "activator"] {
        for pod in cluster.component_pods(component).await? {
            let uid = pod.metadata.uid.context("a pod without uid")?;
            found.extend(processes_of(&uid)?.into_iter().map(|(rss, pss)| Memory { component, rss, pss }));
        }
    }
    Ok(found)
}

/// Resident and proportional size of each process of a pod, but not of the one that holds its network.
fn processes_of(uid: &str) -> Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // A process may end while it is looked at.
        let Ok(entry) = entry else { continue };
        found.extend(sizes(&entry.path(), uid));
    }
    Ok(found)
}

fn sizes(process: &Path, uid: &str) -> Option<(u64, u64)> {
    let groups = fs::read_to_string(process.join("cgroup")).ok()?;
    // The systemd driver of the kubelet writes dashes as underscores.
    if !groups.contains(uid) && !groups.contains(&uid.replace('-', "_")) {
        return None;
    }
    let command = fs::read(process.join("cmdline")).ok()?;
    let program = std::str::from_utf8(command.split(|byte| *byte == 0).next()?).ok()?;
    if !program.rsplit('/').next()?.starts_with("pilotlight-") {
        return None;
    }
    let smaps = fs::read_to_string(process.join("smaps_rollup")).ok()?;
    let field = |name: &str| {
        let line = smaps.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some((field("Rss:")?, field("Pss:")?))
}
