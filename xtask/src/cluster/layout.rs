//! The cluster's files, by the two names each has: one on this machine, one inside a node.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result};

use super::address::Node;
use crate::paths;

/// Where a node sees the state folder. Nodes mount over /var/lib and /run, so its own place may be
/// hidden there; /mnt exists everywhere and is nobody's.
const INSIDE: &str = "/mnt";

/// Where things are, below one state folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new() -> Self {
        Self { root: paths::state() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn exists(&self) -> bool {
        self.root.exists()
    }

    /// For clients outside of the cluster: the machine's own network, and node 1's.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    pub(crate) fn certs(&self) -> PathBuf {
        self.root.join("certs")
    }

    pub(crate) fn node(&self, node: Node) -> PathBuf {
        self.root.join(node.to_string())
    }

    pub(crate) fn log(&self, node: Node, component: &str) -> PathBuf {
        self.node(node).join("log").join(format!("{component}.log"))
    }

    /// Holds the process id, as this machine counts, of the node's first process.
    pub(crate) fn init_pid(&self, node: Node) -> PathBuf {
        self.node(node).join("init.pid")
    }

    /// The nodes that have been made here.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        Node::first(Node::MAX).filter(|&node| self.init_pid(node).exists()).collect()
    }

    /// The folders of a node that are the same for every node.
    pub(crate) fn make_node(&self, node: Node) -> Result<()> {
        for folder in
            ["etc", "log", "sysctl", "etcd", "var-lib/kubelet", "var-lib/containerd", "var-log/pods"]
        {
            create(&self.node(node).join(folder))?;
        }
        Ok(())
    }

    /// Makes the root, for root only: it has the keys to the cluster.
    pub(crate) fn make(&self) -> Result<()> {
        create(&self.certs())?;
        // The mount point of the programs, used inside of nodes only.
        create(&self.root.join("bin"))?;
        fs::write(self.root.join("resolv.conf"), "").context("writing an empty resolv.conf")
    }

    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.root.display()))
            }
            _ => Ok(()),
        }
    }
}

/// A file of the state folder by the name that a process inside a node knows it by.
pub(crate) fn inside(path: impl Display) -> String {
    format!("{INSIDE}/{path}")
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))
}
