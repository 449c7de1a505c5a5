//! What goes into an image besides its program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::{Entry, USER};
use crate::run;

/// Where distributions keep the certificates of public authorities.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The small files without which a program behaves oddly: who it is, how names are looked up, whom
/// to trust, and where temporary files go.
pub(crate) fn base() -> Vec<Entry> {
    let passwd =
        format!("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/:/sbin/nologin\n");
    let mut entries = vec![
        Entry::file("/etc/passwd", 0o644, passwd),
        Entry::file("/etc/group", 0o644, format!("root:x:0:\nnonroot:x:{USER}:\n")),
        Entry::file("/etc/nsswitch.conf", 0o644, "hosts: files dns\n"),
        Entry::folder("/tmp", 0o1777, 0),
    ];
    if let Ok(authorities) = fs::read(AUTHORITIES) {
        entries.push(Entry::file(AUTHORITIES, 0o644, authorities));
    }
    entries
}

/// A program that needs nothing else.
pub(crate) fn static_program(path: &str, binary: &Path) -> Result<Entry> {
    Ok(Entry::file(path, 0o755, read(binary)?))
}

/// Programs of this machine, with the libraries that they load, each where it is here.
pub(crate) fn linked_programs(binaries: &[&Path]) -> Result<Vec<Entry>> {
    let mut libraries = BTreeSet::new();
    let mut entries = Vec::new();
    for binary in binaries {
        entries.push(Entry::file(binary.to_string_lossy(), 0o755, read(binary)?));
        libraries.extend(libraries_in(&run::output(Command::new("ldd").arg(binary))?));
    }
    for library in libraries {
        let content = read(Path::new(&library))?;
        entries.push(Entry::file(library, 0o755, content));
    }
    Ok(entries)
}

/// The files that a line of ldd names: `libm.so.6 => /lib/libm.so.6 (0x7f..)`, or the loader by
/// itself. What the kernel provides has no file.
fn libraries_in(ldd: &str) -> impl Iterator<Item = String> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_the_loader() {
        let ldd = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x7f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let found: Vec<_> = libraries_in(ldd).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
