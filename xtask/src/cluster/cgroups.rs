//! The control groups that hold a node's processes.
//!
//! A node gets a subtree of its own in each hierarchy and sees it as the root. That keeps two
//! kubelets apart, makes a node's metrics count only the node, and makes tearing down simple:
//! whatever is in the subtree is ours.

mod mounts;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::address::Node;
use super::names;
use crate::run;

/// The subtree of the whole cluster.
fn root(mount: &Path) -> PathBuf {
    mount.join(format!("pilotlight-cluster{}", names::suffix()))
}

/// Beside the nodes: processes of the cluster that belong to none of them.
const OUTSIDE: &str = "outside";

/// Where a node's own processes live under cgroup2, which allows none in a group that has children.
const LEAF: &str = "system";

/// What the kubelet and containers need.
const NEEDED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// How long the kernel may take to end processes and let go of their groups.
const EMPTY: Duration = Duration::from_secs(20);

/// The hierarchies of this machine that nodes take part in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// cgroup v1: one hierarchy a controller, more or less.
    V1(Vec<Hierarchy>),
    /// cgroup2: one for all.
    V2(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    mount: PathBuf,
    /// As mount takes them: `cpu`, `cpu,cpuacct`, `none,name=systemd`.
    options: String,
}

impl Cgroups {
    /// Fails, with the fix, where neither version has what containers need.
    pub(crate) fn detect() -> Result<Self> {
        let list = fs::read_to_string("/proc/self/mountinfo").context("reading the list of mounts")?;
        let v1 = v1_hierarchies(&list);
        let provides =
            |controller: &&str| v1.iter().any(|one| one.options.split(',').any(|name| name == *controller));
        if NEEDED.iter().all(provides) {
            return Ok(Self::V1(v1));
        }
        let Some(mount) = mounts::of_type(&list, "cgroup2").map(|(mount, _)| mount).next() else {
            bail!("no control groups: mount cgroup2 on /sys/fs/cgroup");
        };
        let offered = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        let lacking: Vec<_> =
            NEEDED.into_iter().filter(|need| !offered.split_whitespace().any(|name| name == *need)).collect();
        if !lacking.is_empty() {
            bail!("neither cgroup v1 nor cgroup2 has all controllers; cgroup2 lacks {}", lacking.join(", "));
        }
        Ok(Self::V2(mount))
    }

    /// Makes a node's subtree.
    pub(crate) fn create(&self, node: Node) -> Result<()> {
        self.create_group(&node.to_string())
    }

    /// Makes the group of the processes that belong to no node.
    pub(crate) fn create_outside(&self) -> Result<()> {
        self.create_group(OUTSIDE)
    }

    /// The files that a process writes "0" to when it enters a node.
    pub(crate) fn entrances(&self, node: Node) -> Vec<PathBuf> {
        match self {
            Self::V1(_) => self.procs(&node.to_string()),
            Self::V2(_) => self.procs(&format!("{node}/{LEAF}")),
        }
    }

    /// The same for the node's first process, which comes before [`Self::settle`].
    pub(crate) fn first_entrances(&self, node: Node) -> Vec<PathBuf> {
        self.procs(&node.to_string())
    }

    /// The same for processes of no node.
    pub(crate) fn outside_entrances(&self) -> Vec<PathBuf> {
        self.procs(OUTSIDE)
    }

    /// Under cgroup2, moves a node's first processes to a leaf, so that controllers can be handed
    /// down to its other children.
    pub(crate) fn settle(&self, node: Node) -> Result<()> {
        let Self::V2(mount) = self else { return Ok(()) };
        let group = root(mount).join(node.to_string());
        let leaf = group.join(LEAF);
        make(&leaf)?;
        for pid in tree::pids(&group) {
            fs::write(leaf.join("cgroup.procs"), pid.to_string()).context("moving a node's process")?;
        }
        hand_down(&group)
    }

    /// What the init script mounts: one line `<folder> <options>` for each v1 hierarchy, or `cgroup2`.
    pub(crate) fn mounts_inside(&self) -> String {
        match self {
            Self::V2(_) => "cgroup2".into(),
            Self::V1(hierarchies) => {
                let folder =
                    |mount: &Path| mount.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let line = |one: &Hierarchy| format!("{} {}", folder(&one.mount), one.options);
                hierarchies.iter().map(line).collect::<Vec<_>>().join("\n")
            }
        }
    }

    /// Ends everything in the cluster's subtree and removes it.
    pub(crate) fn remove(&self) -> Result<()> {
        run::retry("the cluster's processes end", EMPTY, || {
            let pids = self.processes();
            tree::kill(&pids);
            Ok(pids.is_empty())
        })?;
        run::retry("the cluster's control groups go", EMPTY, || {
            let roots = self.roots();
            // A group stays busy for some milliseconds after its last process: hence the retry.
            Ok(roots.iter().filter(|root| tree::remove(root).is_err()).count() == 0)
        })
    }

    /// The cluster's groups that exist.
    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        self.trees().into_iter().filter(|tree| tree.exists()).collect()
    }

    /// Every process of the cluster.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut all: Vec<_> = self.roots().iter().flat_map(|root| tree::all_pids(root)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The processes of a node that are in no container.
    pub(crate) fn own_processes(&self, node: Node) -> Vec<u32> {
        self.entrances(node).first().and_then(|file| file.parent()).map(tree::pids).unwrap_or_default()
    }

    fn trees(&self) -> Vec<PathBuf> {
        match self {
            Self::V1(hierarchies) => hierarchies.iter().map(|one| root(&one.mount)).collect(),
            Self::V2(mount) => vec![root(mount)],
        }
    }

    fn procs(&self, group: &str) -> Vec<PathBuf> {
        self.trees().iter().map(|tree| tree.join(group).join("cgroup.procs")).collect()
    }

    fn create_group(&self, name: &str) -> Result<()> {
        for tree in self.trees() {
            let group = tree.join(name);
            make(&group)?;
            match self {
                Self::V1(_) => [&tree, &group].into_iter().try_for_each(|level| inherit_cpuset(level))?,
                Self::V2(mount) => [mount, &tree].into_iter().try_for_each(|level| hand_down(level))?,
            }
        }
        Ok(())
    }
}

/// Under v1, a new cpuset group has no processors and no memory, and refuses processes until it does.
fn inherit_cpuset(group: &Path) -> Result<()> {
    let Some(parent) = group.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if group.join(file).exists() {
            let value = fs::read(parent.join(file)).with_context(|| format!("reading {file}"))?;
            fs::write(group.join(file), value).with_context(|| format!("setting {file}"))?;
        }
    }
    Ok(())
}

/// Under cgroup2, lets a group's children use the controllers that it has itself.
fn hand_down(group: &Path) -> Result<()> {
    let offered = fs::read_to_string(group.join("cgroup.controllers"))?;
    for controller in offered.split_whitespace() {
        let enabled = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
        if NEEDED.contains(&controller) {
            enabled.with_context(|| format!("handing {controller} down from {}", group.display()))?;
        }
    }
    Ok(())
}

fn make(group: &Path) -> Result<()> {
    fs::create_dir_all(group).with_context(|| format!("creating {}", group.display()))
}

fn v1_hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    mounts::of_type(mountinfo, "cgroup")
        .map(|(mount, options)| {
            let kept = options.split(',').filter(|option| !matches!(*option, "rw" | "ro" | "xattr"));
            let mut kept: Vec<_> = kept.filter(|option| !option.starts_with("release_agent")).collect();
            if kept.iter().all(|option| option.starts_with("name=")) {
                kept.insert(0, "none");
            }
            Hierarchy { mount, options: kept.join(",") }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
25 1 0:20 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
26 25 0:21 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
27 25 0:22 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
28 25 0:23 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn v1_hierarchies_keep_what_mount_needs() {
        let v1 = Cgroups::V1(v1_hierarchies(MOUNTS));
        assert_eq!(v1.mounts_inside(), "cpu,cpuacct cpu,cpuacct\nsystemd none,name=systemd");
    }

    #[test]
    fn a_node_enters_every_hierarchy() {
        let v1 = Cgroups::V1(v1_hierarchies(MOUNTS));
        let entrances = v1.entrances(Node::FIRST);
        assert_eq!(entrances.len(), 2);
        let first = root(Path::new("/sys/fs/cgroup/cpu,cpuacct")).join("n1/cgroup.procs");
        assert_eq!(entrances[0], first);
    }

    #[test]
    fn under_cgroup2_a_node_lives_in_a_leaf() {
        let v2 = Cgroups::V2("/sys/fs/cgroup".into());
        let leaf = root(Path::new("/sys/fs/cgroup")).join("n1/system/cgroup.procs");
        assert_eq!(v2.entrances(Node::FIRST), [leaf]);
        assert!(v2.first_entrances(Node::FIRST)[0].ends_with("n1/cgroup.procs"));
    }
}
