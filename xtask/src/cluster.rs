//! A real Kubernetes cluster on this machine, without containers around it and without Docker: each
//! node is a set of namespaces, and everything that runs in it is what runs on a real node.

pub(crate) mod address;
mod certs;
mod cgroups;
mod control_plane;
mod daemon;
mod layout;
mod leftovers;
mod lock;
mod logs;
mod machine;
pub(crate) mod names;
mod network;
mod node;
mod outage;
mod owned;
pub(crate) mod relay;
mod status;
mod up;

use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Result, anyhow, bail};

use crate::tools;
use address::Node;
use layout::Layout;
use machine::Machine;

pub(crate) use cgroups::Cgroups;
pub(crate) use leftovers::down;
pub(crate) use lock::Lock;
pub(crate) use node::PAUSE_IMAGE;
pub(crate) use owned::Owned;
pub(crate) use up::up;

/// A cluster that is up.
#[derive(Debug)]
pub(crate) struct Cluster {
    layout: Layout,
    cgroups: Cgroups,
    nodes: Vec<Node>,
    /// The folder with kubectl.
    programs: PathBuf,
}

impl Cluster {
    /// The one that an earlier `up` made.
    pub(crate) fn open() -> Result<Self> {
        let layout = Layout::new();
        let nodes = layout.nodes();
        if nodes.is_empty() {
            bail!("there is no cluster: `cargo xtask cluster up` makes one");
        }
        Ok(Self { layout, cgroups: Cgroups::detect()?, nodes, programs: tools::kubernetes()? })
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// A program of this machine in node 1's network, where pods and Services can be reached.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = machine::in_network(&self.cgroups, Node::FIRST, program);
        self.add_environment(&mut command);
        command
    }

    /// kubectl, as it would run on this machine.
    pub(crate) fn kubectl(&self) -> Command {
        self.command(&self.programs.join("kubectl").to_string_lossy())
    }

    /// A program inside a node, with the node's view of everything.
    pub(crate) fn exec(&self, node: Node, program: &str) -> Result<Command> {
        Ok(self.machine(node)?.command(program))
    }

    /// Puts image archives into every node's store, all at the same time.
    pub(crate) fn load(&self, archives: &[PathBuf]) -> Result<()> {
        let machines = self.nodes.iter().map(|&node| self.machine(node)).collect::<Result<Vec<_>>>()?;
        load(&machines, archives)
    }

    /// Cuts a node off from the others, or ends that.
    pub(crate) fn set_link(&self, node: Node, up: bool) -> Result<()> {
        self.machine(node)?;
        network::set_link(node, up)
    }

    /// Makes an address that node 1 can reach answer on a port of this machine's 127.0.0.1.
    pub(crate) fn forward(&self, port: u16, address: &str) -> Result<()> {
        relay::start(&self.layout, &self.cgroups, port, address)
    }

    /// The log of a component of a node.
    pub(crate) fn log(&self, node: Node, component: &str) -> Result<PathBuf> {
        let log = self.layout.log(node, component);
        if !log.exists() {
            let known = logs::components(&self.layout.node(node).join("log"));
            bail!("node {node} has no log of {component}; it has {}", known.join(", "));
        }
        Ok(log)
    }

    /// What tools need to find the cluster: as their own, so that a cluster of the user's that is
    /// set in the environment is never touched.
    fn add_environment(&self, command: &mut Command) {
        let own = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(self.programs.clone()).chain(std::env::split_paths(&own));
        if let Ok(path) = std::env::join_paths(path) {
            command.env("PATH", path);
        }
        command.env("KUBECONFIG", self.kubeconfig());
        // kubectl's own would be in the user's home.
        command.env("KUBECACHEDIR", self.layout.root().join("kubectl-cache"));
    }

    fn machine(&self, node: Node) -> Result<Machine> {
        Machine::open(&self.layout, &self.cgroups, node)
    }
}

fn load(machines: &[Machine], archives: &[PathBuf]) -> Result<()> {
    thread::scope(|scope| {
        let each = machines.iter().flat_map(|machine| archives.iter().map(move |archive| (machine, archive)));
        let loading: Vec<_> =
            each.map(|(machine, archive)| scope.spawn(|| node::load(machine, archive))).collect();
        loading
            .into_iter()
            .try_for_each(|one| one.join().map_err(|_| anyhow!("loading an image panicked"))?)
    })
}
