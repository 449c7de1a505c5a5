//! What a cluster looks like right now.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::Cluster;
use super::address::Node;
use crate::run;

impl Cluster {
    /// Prints the nodes as Kubernetes sees them, and the processes as this machine does.
    pub(crate) fn print_status(&self) -> Result<()> {
        let mut nodes = self.kubectl();
        nodes.args(["get", "nodes", "-o", "wide", "--request-timeout=5s"]);
        match run::output(&mut nodes) {
            Ok(table) => print!("{table}"),
            Err(error) => println!("the API server does not answer: {error:#}"),
        }
        for &node in &self.nodes {
            println!("\n{node}:");
            for (name, pid, memory) in self.components(node) {
                println!("  {name:<16} process {pid:<8} {:>5} MiB", memory / 1024);
            }
        }
        println!("\nKUBECONFIG={}", self.kubeconfig().display());
        Ok(())
    }

    /// Name, process and resident memory in KiB of what runs in a node, containers excluded.
    pub(super) fn components(&self, node: Node) -> Vec<(String, u32, u64)> {
        let mut found: Vec<_> = self
            .cgroups
            .own_processes(node)
            .into_iter()
            .filter_map(|pid| Some((name(pid)?, pid, memory(pid)?)))
            // What holds the node together rather than what runs in it.
            .filter(|(name, ..)| !["bash", "sleep", "unshare", "nsenter"].contains(&name.as_str()))
            .collect();
        found.sort();
        found
    }
}

fn name(pid: u32) -> Option<String> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let program = String::from_utf8_lossy(command.split(|&byte| byte == 0).next()?).into_owned();
    Some(Path::new(&program).file_name()?.to_string_lossy().into_owned())
}

fn memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
