//! The distribution's packages: what the cluster needs from them, and how to get it.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::find;
use crate::run;

/// A program, and the Debian package that has it.
pub(crate) struct Needed {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

pub(super) const fn needed(program: &'static str, package: &'static str) -> Needed {
    Needed { program, package }
}

pub(crate) const PROGRAMS: [Needed; 13] = [
    needed("curl", "curl"),
    needed("gcc", "gcc"),
    needed("openssl", "openssl"),
    needed("nsenter", "util-linux"),
    needed("ip", "iproute2"),
    needed("kill", "procps"),
    needed("nft", "nftables"),
    needed("etcd", "etcd-server"),
    needed("containerd", "containerd"),
    needed("ctr", "containerd"),
    needed("runc", "runc"),
    needed("redis-server", "redis-server"),
    needed("redis-cli", "redis-tools"),
];

/// Where distributions put the CNI plugins.
const CNI_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
const CNI_PLUGINS: [&str; 3] = ["ptp", "host-local", "loopback"];
const CNI_PACKAGE: &str = "containernetworking-plugins";

/// Where a static C program finds its library. Part of what gcc needs, but not of gcc.
const LIBC_PACKAGE: &str = "libc6-dev";

/// The folder with the CNI plugins.
pub(crate) fn cni_plugins() -> Option<PathBuf> {
    let complete = |dir: &PathBuf| CNI_PLUGINS.iter().all(|plugin| dir.join(plugin).is_file());
    CNI_FOLDERS.map(PathBuf::from).into_iter().find(complete)
}

/// The packages that are missing here.
pub(crate) fn missing() -> Vec<&'static str> {
    let mut packages: Vec<_> =
        PROGRAMS.iter().filter(|need| find(need.program).is_none()).map(|need| need.package).collect();
    if cni_plugins().is_none() {
        packages.push(CNI_PACKAGE);
    }
    if packages.contains(&"gcc") {
        packages.push(LIBC_PACKAGE);
    }
    packages.dedup();
    packages
}

/// Installs packages without starting the services that some of them bring: the cluster runs its
/// own, in its own namespaces.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    eprintln!("installing with apt-get: {}", packages.join(" "));
    let _no_services = ServicePolicy::forbid()?;
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    run::run(apt().args(["update", "-qq"]))?;
    run::run(apt().args(["install", "-qq", "-y", "--no-install-recommends"]).args(packages))
}

/// The file by which Debian asks the administrator whether a package may start its service.
struct ServicePolicy {
    ours: bool,
}

impl ServicePolicy {
    const FILE: &str = "/usr/sbin/policy-rc.d";

    /// Says no until dropped. A policy that is there already is the administrator's, and stays.
    fn forbid() -> Result<Self> {
        let file = Path::new(Self::FILE);
        match OpenOptions::new().write(true).create_new(true).open(file) {
            Ok(mut policy) => {
                // 101 is "forbidden by policy".
                policy.write_all(b"#!/bin/sh\nexit 101\n")?;
                fs::set_permissions(file, Permissions::from_mode(0o755))?;
                Ok(Self { ours: true })
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Self { ours: false }),
            Err(error) => Err(error).context(Self::FILE),
        }
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(Self::FILE);
        }
    }
}
