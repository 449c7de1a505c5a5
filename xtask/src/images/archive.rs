//! Container images without a container engine: a program and the few files it needs, written in
//! the format that `docker save` writes. `docker load`, `ctr images import`, `kind load
//! image-archive` and `skopeo copy docker-archive:` all read it.
//!
//! The same input gives the same bytes, whenever and wherever it is written.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::tools::hex;

/// Who images run as. Not root, and not anyone that the host knows.
pub(crate) const USER: u64 = 65532;

/// An image of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// Repository and tag.
    pub(crate) name: String,
    pub(crate) entries: Vec<Entry>,
    pub(crate) entrypoint: String,
    pub(crate) user: u64,
    pub(crate) folder: String,
}

/// A file or a folder of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Absolute, as the container sees it.
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) owner: u64,
    /// None for a folder.
    pub(crate) content: Option<Vec<u8>>,
}

impl Entry {
    pub(crate) fn file(path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode, owner: 0, content: Some(content.into()) }
    }

    pub(crate) fn folder(path: impl Into<String>, mode: u32, owner: u64) -> Self {
        Self { path: path.into(), mode, owner, content: None }
    }
}

/// The archive's bytes.
pub(crate) fn archive(image: &Image) -> Result<Vec<u8>> {
    let layer = tarball(&with_parents(&image.entries))?;
    let config = config(image, &layer).to_string();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [image.name], "Layers": ["layer.tar"] }]);
    tarball(&[
        Entry::file("/config.json", 0o644, config),
        Entry::file("/layer.tar", 0o644, layer),
        Entry::file("/manifest.json", 0o644, manifest.to_string()),
    ])
}

fn config(image: &Image, layer: &[u8]) -> serde_json::Value {
    json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": [image.entrypoint],
            "User": format!("{0}:{0}", image.user),
            "WorkingDir": image.folder,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&Sha256::digest(layer)))] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask images" }],
    })
}

/// This machine's architecture, by the name that images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The entries, sorted, with the folders they are in: a folder that is only implied gets whatever
/// rights the program that unpacks it likes.
fn with_parents(entries: &[Entry]) -> Vec<Entry> {
    let known: BTreeSet<_> = entries.iter().map(|entry| Path::new(&entry.path)).collect();
    let parents: BTreeSet<_> = known.iter().flat_map(|path| path.ancestors().skip(1)).collect();
    let implied = parents.difference(&known).filter(|path| path.parent().is_some());
    let mut all: Vec<_> = implied.map(|path| Entry::folder(path.to_string_lossy(), 0o755, 0)).collect();
    all.extend_from_slice(entries);
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

fn tarball(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for entry in entries {
        let content = entry.content.as_deref().unwrap_or_default();
        let mut header = Header::new_gnu();
        header.set_entry_type(if entry.content.is_some() {
            EntryType::Regular
        } else {
            EntryType::Directory
        });
        header.set_mode(entry.mode);
        header.set_uid(entry.owner);
        header.set_gid(entry.owner);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, entry.path.trim_start_matches('/'), content)
            .with_context(|| format!("archiving {}", entry.path))?;
    }
    Ok(tar.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            name: "pilotlight.local/x:dev".into(),
            entries: vec![
                Entry::file("/usr/bin/x", 0o755, "program"),
                Entry::file("/etc/passwd", 0o644, "x"),
                Entry::folder("/tmp", 0o1777, 0),
            ],
            entrypoint: "/usr/bin/x".into(),
            user: USER,
            folder: "/".into(),
        }
    }

    #[test]
    fn the_same_image_gives_the_same_bytes() {
        assert_eq!(archive(&image()).unwrap(), archive(&image()).unwrap());
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let paths: Vec<_> = with_parents(&image().entries).into_iter().map(|entry| entry.path).collect();
        assert_eq!(paths, ["/etc", "/etc/passwd", "/tmp", "/usr", "/usr/bin", "/usr/bin/x"]);
    }

    #[test]
    fn the_archive_is_one_that_engines_read() {
        let bytes = archive(&image()).unwrap();
        let mut names = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            names.push(entry.unwrap().path().unwrap().to_string_lossy().into_owned());
        }
        assert_eq!(names, ["config.json", "layer.tar", "manifest.json"]);
    }
}
