//! A cluster that ends with the command that made it.

use anyhow::Result;

use super::down;

/// Takes the cluster down when dropped: at the end, after a failure, and after Ctrl-C, which is a
/// failure of whatever was going on (see `interrupt`).
#[derive(Debug)]
#[must_use = "the cluster goes when this does"]
pub(crate) struct Owned(());

impl Owned {
    /// Comes before the cluster is made: one that failed half-way has to go as well.
    pub(crate) fn arm() -> Self {
        Self(())
    }

    /// Takes it down now, for callers who want to know how that went.
    pub(crate) fn down(self) -> Result<()> {
        std::mem::forget(self);
        down()
    }

    /// Leaves the cluster to the user.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        eprintln!("taking the cluster down");
        if let Err(error) = down() {
            eprintln!("error: {error:#}");
        }
    }
}
