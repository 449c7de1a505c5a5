//! A cluster that ends with the command that made it.

use anyhow::Result;

use super::{Cluster, Lock, down, up};

/// Takes the cluster down when dropped: at the end, after a failure, and after Ctrl-C, which is a
/// failure of whatever was going on (see `interrupt`).
#[derive(Debug)]
#[must_use = "the cluster goes when this does"]
pub(crate) struct Owned {
    lock: Lock,
    /// False once it is gone, or not ours any more.
    armed: bool,
}

impl Owned {
    /// Makes a cluster of `nodes` nodes.
    pub(crate) fn up(nodes: u8) -> Result<(Self, Cluster)> {
        // Armed first: a cluster that failed half-way has to go, too.
        let owned = Self { lock: Lock::take()?, armed: true };
        let cluster = up(nodes, &owned.lock)?;
        Ok((owned, cluster))
    }

    /// Takes it down now, for callers who want to know how that went.
    pub(crate) fn down(mut self) -> Result<()> {
        self.armed = false;
        down(&self.lock)
    }

    /// Leaves the cluster to the user.
    pub(crate) fn keep(mut self) {
        self.armed = false;
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        eprintln!("taking the cluster down");
        if let Err(error) = down(&self.lock) {
            eprintln!("error: {error:#}");
        }
    }
}
