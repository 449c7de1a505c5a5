//! Can a cluster run here? One answer, with everything that is missing and how to get it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{Result, bail};

use super::{find, packages};
use crate::cluster::Cgroups;
use crate::run;

/// The Go that Kubernetes' modules ask for.
const GO: (u32, u32) = (1, 26);

/// Installs the packages that are missing, where that is possible, and fails with a list of what
/// still stands in the way.
pub(crate) fn check() -> Result<()> {
    let missing = packages::missing();
    if !missing.is_empty() && is_root() && find("apt-get").is_some() {
        packages::install(&missing)?;
    }
    let problems: Vec<_> = [root(), cgroups(), overlay(), go()]
        .into_iter()
        .flatten()
        .chain(missing_packages())
        .map(|problem| format!("  - {problem}"))
        .collect();
    if !problems.is_empty() {
        bail!("a cluster cannot run here:\n{}", problems.join("\n"));
    }
    Ok(())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn root() -> Option<String> {
    (!is_root()).then(|| "not root, and namespaces, mounts and cgroups need it: run this with sudo".into())
}

fn cgroups() -> Option<String> {
    Cgroups::detect().err().map(|error| format!("{error:#}"))
}

fn overlay() -> Option<String> {
    let known = || fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("\toverlay\n"));
    if known() {
        return None;
    }
    // It is often a module that nothing has asked for yet.
    let _ = run::output(Command::new("modprobe").arg("overlay"));
    (!known()).then(|| "no overlay file system, which containers' files live on: `modprobe overlay`".into())
}

fn go() -> Option<String> {
    let fix = format!("install Go {}.{} or newer from https://go.dev/dl and put it on PATH", GO.0, GO.1);
    match run::output(Command::new("go").args(["env", "GOVERSION"])) {
        Err(_) => Some(format!("no Go: {fix}")),
        Ok(version) if go_version(&version) < Some(GO) => Some(format!("Go is {}: {fix}", version.trim())),
        Ok(_) => None,
    }
}

/// `go1.26.8` -> (1, 26)
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("go")?.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

fn missing_packages() -> Vec<String> {
    let mut problems: Vec<_> = packages::PROGRAMS
        .iter()
        .filter(|need| find(need.program).is_none())
        .map(|need| {
            format!("no `{}`: Debian and Ubuntu have it in the package {}", need.program, need.package)
        })
        .collect();
    if packages::cni_plugins().is_none() {
        problems.push("no CNI plugins: Debian and Ubuntu have them in containernetworking-plugins".into());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_compared_by_number() {
        assert_eq!(go_version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(go_version("go1.27rc1"), Some((1, 27)));
        assert!(go_version("go1.9.7") < Some(GO));
        assert!(go_version("devel") < Some(GO));
    }
}
