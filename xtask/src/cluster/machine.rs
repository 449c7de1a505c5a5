//! A node without a machine: a set of namespaces that a kubelet takes for a computer of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::address::Node;
use super::cgroups::Cgroups;
use super::layout::Layout;
use super::{logs, network};
use crate::run;

const INIT: &str = include_str!("machine/init.sh");

/// Mounting a dozen file systems takes some 200 ms; this is for a machine that is busy.
const STARTS: Duration = Duration::from_secs(20);

/// Enters control groups (each argument up to `--`), then becomes the rest of its arguments.
const ENTER: &str = r#"while [ "$1" != -- ]; do echo 0 >"$1" || exit 125; shift; done; shift; exec "$@""#;

/// A node's namespaces and control groups.
#[derive(Debug)]
pub(crate) struct Machine {
    node: Node,
    /// The node's first process, by the id it has on this machine.
    init: u32,
    cgroups: Cgroups,
    layout: Layout,
}

impl Machine {
    /// Makes a node and waits until programs can run in it.
    pub(crate) fn create(layout: &Layout, cgroups: &Cgroups, node: Node, programs: &Path) -> Result<Self> {
        layout.make_node(node)?;
        cgroups.create(node)?;
        network::add_node(node)?;
        let mut first = first_process(layout, cgroups, node, programs)?;
        let log = layout.log(node, "init");
        run::wait_until(&format!("node {node} starts"), STARTS, || {
            if let Some(status) = first.try_wait()? {
                bail!("node {node} ended: {status}\n{}", logs::tail(&log));
            }
            Ok(layout.init_pid(node).exists())
        })?;
        cgroups.settle(node)?;
        Self::open(layout, cgroups, node)
    }

    /// A node that exists.
    pub(crate) fn open(layout: &Layout, cgroups: &Cgroups, node: Node) -> Result<Self> {
        let file = layout.init_pid(node);
        let text = fs::read_to_string(&file).with_context(|| format!("there is no node {node}"))?;
        let init = text.trim().parse().with_context(|| format!("{} holds no process id", file.display()))?;
        Ok(Self { node, init, cgroups: cgroups.clone(), layout: layout.clone() })
    }

    pub(crate) fn node(&self) -> Node {
        self.node
    }

    pub(crate) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A file inside the node, by a name that works from outside.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// A program that runs inside the node, with the node's view of files, processes and network.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.enter_namespaces(entering(&self.cgroups.entrances(self.node)), program)
    }

    /// Starts a program in the node that outlives xtask.
    pub(crate) fn start(&self, program: &str, arguments: &[String], log: &Path) -> Result<Child> {
        let groups = self.cgroups.entrances(self.node);
        start_detached(self.enter_namespaces(detached(&groups), program).args(arguments), log)
    }

    fn enter_namespaces(&self, mut command: Command, program: &str) -> Command {
        // The control groups come first: they decide what the new process sees as their root.
        command.args(["nsenter", "--target", &self.init.to_string()]);
        command.args(["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--", program]);
        command
    }
}

/// A program of this machine, with its files and processes, in the network of a node. It is among
/// what ends with the cluster.
pub(crate) fn in_network(cgroups: &Cgroups, node: Node, program: &str) -> Command {
    let mut command = entering(&cgroups.outside_entrances());
    command.args(["nsenter", &format!("--net={}", network::path(node)), "--", program]);
    command
}

/// A command line that enters control groups and then becomes what is added to it.
pub(crate) fn entering(groups: &[PathBuf]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", ENTER, "enter"]).args(groups).arg("--");
    command
}

fn first_process(layout: &Layout, cgroups: &Cgroups, node: Node, programs: &Path) -> Result<Child> {
    let script = layout.root().join("init.sh");
    fs::write(&script, INIT).with_context(|| format!("writing {}", script.display()))?;
    let mut command = detached(&cgroups.first_entrances(node));
    command
        .args(["nsenter", &format!("--net={}", network::path(node)), "unshare"])
        // Entering the groups first makes the new cgroup namespace begin at the node's subtree.
        .args(["--mount", "--propagation=private", "--pid", "--fork", "--kill-child"])
        .args(["--ipc", "--uts", "--cgroup", "bash"])
        .arg(script)
        .arg(node.to_string())
        .args([layout.root(), programs])
        .arg(cgroups.mounts_inside());
    start_detached(&mut command, &layout.log(node, "init"))
}

/// Like [`entering`], in a session of its own: whoever ends xtask's session or process group, such as
/// a terminal or a job control, means xtask and not the cluster.
pub(crate) fn detached(groups: &[PathBuf]) -> Command {
    let mut command = entering(groups);
    command.arg("setsid");
    command
}

/// Starts a program that writes to a log from now on.
pub(crate) fn start_detached(command: &mut Command, log: &Path) -> Result<Child> {
    let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot run `{}`", run::line(command)))
}
