//! The programs a cluster is made of, and where they come from.
//!
//! Kubernetes, CoreDNS, helm and h2spec are Go modules built here, once, from the Go module proxy; the pause
//! container is a few lines of C; etcd, containerd and the like are the distribution's packages.

mod autobahn;
mod deny;
mod go;
mod llvm;
mod packages;
mod pause;
pub(crate) mod preflight;
mod proxies;

use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, process};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::paths;

pub(crate) use autobahn::autobahn;
pub(crate) use deny::cargo_deny;
pub(crate) use go::{coredns, h2spec, helm, kubectl, kubernetes};
pub(crate) use llvm::llvm_profdata;
pub(crate) use packages::cni_plugins;
pub(crate) use pause::pause;
pub(crate) use proxies::{Proxies, proxies};

/// Finds a program as a shell would, with the folders of system programs added: the PATH of an
/// ordinary user often lacks them.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A folder in the cache that holds the result of one build.
///
/// Its name holds a hash of everything that goes into the build, so a folder that exists is right and
/// complete: it is made under another name and renamed when done.
struct Build<'a> {
    name: &'a str,
    /// What the user is told while it is made.
    note: &'a str,
    /// The contents of what goes in.
    inputs: &'a [Vec<u8>],
}

impl Build<'_> {
    /// The folder, made by `make` unless it is there already.
    fn ensure(&self, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let folder = paths::cache()?.join(self.name).join(self.key());
        if folder.is_dir() {
            return Ok(folder);
        }
        let unfinished = folder.with_extension(format!("tmp-{}", process::id()));
        fs::create_dir_all(&unfinished).with_context(|| format!("creating {}", unfinished.display()))?;
        eprintln!("building {} ({})", self.name, self.note);
        let start = Instant::now();
        let made = make(&unfinished).with_context(|| format!("building {}", self.name));
        if made.is_err() {
            let _ = fs::remove_dir_all(&unfinished);
        }
        made?;
        // Another xtask may have been faster; its result is as good as this one.
        if fs::rename(&unfinished, &folder).is_err() && folder.is_dir() {
            fs::remove_dir_all(&unfinished)?;
        }
        eprintln!("built {} in {:.0} s", self.name, start.elapsed().as_secs_f64());
        Ok(folder)
    }

    fn key(&self) -> String {
        let mut hash = Sha256::new();
        for input in self.inputs {
            // The length keeps two inputs from passing as one.
            hash.update((input.len() as u64).to_le_bytes());
            hash.update(input);
        }
        hex(&hash.finalize()[..8])
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(inputs: &[&[u8]]) -> String {
        let inputs: Vec<_> = inputs.iter().map(|input| input.to_vec()).collect();
        Build { name: "x", note: "", inputs: &inputs }.key()
    }

    #[test]
    fn a_key_depends_on_every_input() {
        assert_eq!(key(&[b"ab", b"c"]), key(&[b"ab", b"c"]));
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_eq!(key(&[b"ab"]).len(), 16);
    }
}
