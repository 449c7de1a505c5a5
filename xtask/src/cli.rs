//! The command line: verbs and their arguments, and which function each one is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::bench::BenchVerb;
use crate::cluster::address::Node;
use crate::cluster::{self, Cluster, Lock, relay};
use crate::demo::DemoArgs;
use crate::fuzz::FuzzArgs;
use crate::verify::TestArgs;
use crate::{bench, codegen, demo, fuzz, images, run, tidy, verify};

/// What the environment decides.
const CLUSTER_HELP: &str = "\
PILOTLIGHT_CLUSTER    gives the cluster a name; clusters of different names live side by side
PILOTLIGHT_STATE_DIR  its files, instead of /var/lib/pilotlight-cluster
PILOTLIGHT_CACHE      what is built once for all clusters, instead of ~/.cache/pilotlight";

/// What to do with archives, where there is no cluster of ours.
const IMAGES_HINT: &str = "\
Into the embedded cluster:  cargo xtask cluster load dist/images/*.tar
Into a kind cluster:        kind load image-archive dist/images/hello.tar
Into a registry:            docker load -i dist/images/hello.tar, then docker tag and docker push
";

/// Build, run and test Pilotlight.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
pub(crate) struct Xtask {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// A Kubernetes cluster on this machine
    #[command(subcommand, after_help = CLUSTER_HELP)]
    Cluster(ClusterVerb),
    /// Build images into dist/images
    Images {
        /// Only these, by the last part of their name
        names: Vec<String>,
    },
    /// From nothing to a function's first answer, growth, and back to zero
    Demo(DemoArgs),
    /// Everything that says whether this checkout is good
    Test(TestArgs),
    /// Look for inputs that break what reads or changes requests
    Fuzz(FuzzArgs),
    /// Measure
    #[command(subcommand)]
    Bench(BenchVerb),
    /// Find out how often each part of the activator runs, for the compiler to arrange it by
    Profile,
    /// Write the files that are generated from code
    Codegen {
        /// Only say whether they are up to date
        #[arg(long)]
        check: bool,
    },
    /// Check the house rules that no compiler checks
    Tidy,
    /// One end of a relay between networks: started by the cluster, not by people
    #[command(hide = true)]
    Relay { end: relay::End, socket: PathBuf, address: String },
}

#[derive(Debug, Subcommand)]
enum ClusterVerb {
    /// Remove what an earlier cluster left, and make a new one
    Up {
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(Node::MAX)))]
        nodes: u8,
    },
    /// End everything, and check that nothing is left
    Down,
    /// Show nodes and processes
    Status,
    /// Put image archives into every node's store
    Load {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Run a command inside a node
    Exec {
        node: Node,
        #[command(flatten)]
        command: Words,
    },
    /// Run a command of this machine in node 1's network, with KUBECONFIG set
    Net {
        #[command(flatten)]
        command: Words,
    },
    /// Run kubectl against the cluster
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print the path of the kubeconfig
    Kubeconfig,
    /// Show the log of a component: apiserver, kubelet, containerd, ...
    Logs {
        component: String,
        #[arg(long, default_value_t = Node::FIRST)]
        node: Node,
        /// Go on as it grows
        #[arg(long, short)]
        follow: bool,
    },
    /// Cut a node off from the others
    Partition { node: Node },
    /// End a partition
    Heal { node: Node },
    /// End the API server as a crash would
    StopApi,
    /// Start the API server again
    StartApi,
    /// Make an address of the cluster reachable at a port of 127.0.0.1
    Forward {
        port: u16,
        /// A pod's or Service's address and port, as node 1 sees it
        address: String,
    },
}

/// A command line after `--`.
#[derive(Debug, Args)]
struct Words {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Xtask {
    pub(crate) fn run(self) -> Result<()> {
        match self.verb {
            Verb::Cluster(verb) => verb.run(),
            Verb::Images { names } => {
                images::build(&names)?.iter().for_each(|archive| println!("{}", archive.display()));
                eprint!("{IMAGES_HINT}");
                Ok(())
            }
            Verb::Demo(args) => demo::demo(&args),
            Verb::Test(args) => verify::test(&args),
            Verb::Fuzz(args) => fuzz::fuzz(&args),
            Verb::Bench(verb) => bench::bench(&verb),
            Verb::Profile => bench::record_profile(),
            Verb::Codegen { check: true } => codegen::check(),
            Verb::Codegen { check: false } => codegen::write(),
            Verb::Tidy => tidy::check(),
            Verb::Relay { end, socket, address } => relay::serve(end, &socket, &address),
        }
    }
}

impl ClusterVerb {
    fn run(self) -> Result<()> {
        let open = Cluster::open;
        match self {
            Self::Up { nodes } => {
                let cluster = cluster::up(nodes, &Lock::take()?)?;
                println!("export KUBECONFIG={}", cluster.kubeconfig().display());
                Ok(())
            }
            Self::Down => cluster::down(&Lock::take()?),
            Self::Status => open()?.print_status(),
            Self::Load { archives } => open()?.load(&archives),
            Self::Exec { node, command } => command.replace(|program| open()?.exec(node, program)),
            Self::Net { command } => command.replace(|program| Ok(open()?.command(program))),
            Self::Kubectl { arguments } => Err(run::become_command(open()?.kubectl().args(arguments))),
            Self::Kubeconfig => {
                println!("{}", open()?.kubeconfig().display());
                Ok(())
            }
            Self::Logs { component, node, follow } => show(&open()?.log(node, &component)?, follow),
            Self::Partition { node } => open()?.set_link(node, false),
            Self::Heal { node } => open()?.set_link(node, true),
            Self::StopApi => open()?.stop_api(),
            Self::StartApi => open()?.start_api(),
            Self::Forward { port, address } => open()?.forward(port, &address),
        }
    }
}

impl Words {
    fn replace(&self, command: impl FnOnce(&str) -> Result<Command>) -> Result<()> {
        let Some((program, arguments)) = self.command.split_first() else { bail!("no command") };
        Err(run::become_command(command(program)?.args(arguments)))
    }
}

fn show(log: &Path, follow: bool) -> Result<()> {
    let mut tail = Command::new("tail");
    tail.args(["-n", "200"]).args(follow.then_some("-F")).arg(log);
    Err(run::become_command(&mut tail))
}
