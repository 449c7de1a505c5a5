//! What is built from Go modules: Kubernetes, CoreDNS, helm, h2spec.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, os::unix};

use anyhow::{Context, Result};

use super::Build;
use crate::{paths, run};

/// Must be the version that `kube/go.mod` requires. 1.36 is the last line known to run on cgroup v1.
const KUBERNETES: &str = "v1.36.3";

/// The names under which the one Kubernetes binary is called.
const COMPONENTS: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

/// A folder with the Kubernetes components and kubectl.
pub(crate) fn kubernetes() -> Result<PathBuf> {
    let module = Module {
        name: "kube",
        note: "Kubernetes, once: about 6 minutes",
        package: ".",
        stamp: version_flags(),
    };
    module.ensure(|folder| {
        for component in COMPONENTS {
            unix::fs::symlink("kube", folder.join(component))?;
        }
        Ok(())
    })
}

/// kubectl, for a cluster that is not ours: the user's own, else the one built here.
pub(crate) fn kubectl() -> Result<PathBuf> {
    super::find("kubectl").map_or_else(|| Ok(kubernetes()?.join("kubectl")), Ok)
}

/// The CoreDNS binary.
pub(crate) fn coredns() -> Result<PathBuf> {
    binary("coredns", "the cluster's DNS, once: about 2 minutes", ".")
}

/// The helm binary: the user's own, else one built here.
pub(crate) fn helm() -> Result<PathBuf> {
    let build = || binary("helm", "no helm on PATH, so once: about 2 minutes", "helm.sh/helm/v3/cmd/helm");
    super::find("helm").map_or_else(build, Ok)
}

/// The h2spec binary: the conformance tests of HTTP/2.
pub(crate) fn h2spec() -> Result<PathBuf> {
    let note = "the conformance tests of HTTP/2, once: about half a minute";
    binary("h2spec", note, "github.com/summerwind/h2spec/cmd/h2spec")
}

fn binary(name: &'static str, note: &'static str, package: &'static str) -> Result<PathBuf> {
    let module = Module { name, note, package, stamp: String::new() };
    Ok(module.ensure(|_| Ok(()))?.join(name))
}

/// Kubernetes learns its version from the linker; without it everything reports v0.0.0.
fn version_flags() -> String {
    let mut parts = KUBERNETES.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"]
        .map(|package| {
            format!(
                " -X {package}.gitVersion={KUBERNETES} -X {package}.gitMajor={major} \
                 -X {package}.gitMinor={minor} -X {package}.gitTreeState=clean"
            )
        })
        .concat()
}

/// One of the Go modules in xtask's folder.
struct Module {
    /// The folder it is in, and the binary it gives.
    name: &'static str,
    note: &'static str,
    package: &'static str,
    /// Linker flags that stamp the version.
    stamp: String,
}

impl Module {
    fn ensure(&self, finish: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let source = paths::workspace().join("xtask").join(self.name);
        let mut inputs = sources(&source)?;
        inputs.push(run::output(Command::new("go").arg("version"))?.into_bytes());
        inputs.push(self.stamp.clone().into_bytes());
        Build { name: self.name, note: self.note, inputs: &inputs }.ensure(|folder| {
            run::run(&mut self.command(&source, folder))?;
            finish(folder)
        })
    }

    fn command(&self, source: &Path, folder: &Path) -> Command {
        let mut go = Command::new("go");
        go.current_dir(source)
            .env("CGO_ENABLED", "0")
            // A workspace file above the checkout must not decide what is built.
            .env("GOWORK", "off")
            .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags"])
            .arg(format!("-s -w{}", self.stamp))
            .arg("-o")
            .arg(folder.join(self.name))
            .arg(self.package);
        go
    }
}

/// go.mod, go.sum and the Go files of a module, in a fixed order.
fn sources(module: &Path) -> Result<Vec<Vec<u8>>> {
    let entries = fs::read_dir(module).with_context(|| format!("reading {}", module.display()))?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|end| end == "go" || end == "mod" || end == "sum"));
    files.sort();
    files.iter().map(|file| fs::read(file).with_context(|| format!("reading {}", file.display()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamped_version_is_the_one_required() {
        let module = fs::read_to_string(paths::workspace().join("xtask/kube/go.mod")).unwrap();
        assert!(module.contains(&format!("k8s.io/kubernetes {KUBERNETES}\n")));
        assert!(version_flags().contains("gitMinor=36"));
    }
}
