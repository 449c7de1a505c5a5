//! One cluster a machine, and one xtask at a time that makes or removes it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::process;

use anyhow::{Context, Result, bail};

use super::names;
use crate::paths;

/// The right to make and to remove the cluster. The kernel takes it back when the process ends,
/// however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Fails at once, and says who has it.
    pub(crate) fn take() -> Result<Self> {
        // In the cache, because everything else of a cluster is removed with it.
        let folder = paths::cache()?;
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("cluster{}.lock", names::suffix()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).with_context(|| format!("opening {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                write!(file, "{}", process::id())?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                file.read_to_string(&mut owner)?;
                bail!(
                    "process {owner} is using the cluster, or making or removing it: wait for it, or end it"
                )
            }
            Err(TryLockError::Error(error)) => Err(error).context("locking the cluster"),
        }
    }
}
