//! Bringing a cluster up: what is started when, and what has to be waited for.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::address::Node;
use super::cgroups::Cgroups;
use super::daemon::Daemons;
use super::layout::Layout;
use super::machine::Machine;
use super::{Cluster, Lock, certs, control_plane, down, load, network, node, relay};
use crate::tools::{self, preflight};
use crate::{images, run};

/// 5 s on two idle cores.
const NODES_READY: Duration = Duration::from_secs(90);
const DNS_READY: Duration = Duration::from_secs(90);

const DNS: &str = include_str!("dns.yaml");

/// Removes what an earlier cluster left and makes a new one. One that could not be completed is left
/// as it is, for a look at its logs: `down`, or the next `up`, removes it.
pub(crate) fn up(count: u8, lock: &Lock) -> Result<Cluster> {
    preflight::check()?;
    down(lock)?;
    let programs = tools::kubernetes()?;
    let archives = images::for_cluster()?;
    let layout = Layout::new();
    let cgroups = Cgroups::detect()?;
    let nodes: Vec<_> = Node::first(count).collect();
    let clock = Clock::start();

    layout.make()?;
    certs::create(&layout, &nodes)?;
    clock.say("certificates");
    let machines = create_machines(&layout, &cgroups, &nodes, &programs)?;
    clock.say("namespaces");
    relay::start_api(&layout, &cgroups)?;
    let mut daemons = start(&machines, &archives)?;
    clock.say("API server and images");

    let cluster = Cluster { layout, cgroups, nodes, programs };
    join(&cluster, &machines, &mut daemons)?;
    clock.say("nodes ready");
    start_dns(&cluster)?;
    clock.say("DNS ready");
    Ok(cluster)
}

/// The network, and each node's namespaces.
fn create_machines(
    layout: &Layout,
    cgroups: &Cgroups,
    nodes: &[Node],
    programs: &Path,
) -> Result<Vec<Machine>> {
    cgroups.create_outside()?;
    network::add_switch()?;
    nodes.iter().map(|&node| Machine::create(layout, cgroups, node, programs)).collect()
}

/// Starts the control plane and, while it comes up, each node's runtime.
fn start(machines: &[Machine], archives: &[PathBuf]) -> Result<Daemons> {
    let mut daemons = Daemons::default();
    control_plane::start(&machines[0], &mut daemons)?;
    let runtimes = thread::scope(|scope| {
        let runtimes = scope.spawn(|| start_runtimes(machines, archives));
        control_plane::finish(&machines[0], &mut daemons)?;
        runtimes.join().map_err(|_| anyhow!("starting a runtime panicked"))?
    })?;
    daemons.extend(runtimes);
    Ok(daemons)
}

fn start_runtimes(machines: &[Machine], archives: &[PathBuf]) -> Result<Daemons> {
    let mut daemons = Daemons::default();
    for machine in machines {
        node::start_runtime(machine, &mut daemons)?;
    }
    load(machines, archives)?;
    Ok(daemons)
}

/// Lets every node join, and waits until the cluster takes pods.
fn join(cluster: &Cluster, machines: &[Machine], daemons: &mut Daemons) -> Result<()> {
    for machine in machines {
        node::join(machine, daemons)?;
    }
    let count = machines.len();
    daemons.wait("kubelet", "all nodes are ready", NODES_READY, || Ok(ready_nodes(cluster) == count))
}

fn ready_nodes(cluster: &Cluster) -> usize {
    const READY: &str = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
    let mut kubectl = cluster.kubectl();
    kubectl.args(["get", "nodes", "--request-timeout=5s", "-o", READY]);
    // An error is as good as "not yet": the wait has an end.
    run::output(&mut kubectl)
        .map_or(0, |states| states.split_whitespace().filter(|state| *state == "True").count())
}

fn start_dns(cluster: &Cluster) -> Result<()> {
    run::feed(cluster.kubectl().args(["apply", "-f", "-"]), DNS.as_bytes())?;
    let timeout = format!("--timeout={}s", DNS_READY.as_secs());
    let mut rollout = cluster.kubectl();
    rollout.args(["-n", "kube-system", "rollout", "status", "deployment/coredns", &timeout]);
    run::output(&mut rollout).map(drop)
}

/// Tells how far the cluster is.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn say(&self, done: &str) {
        eprintln!("{:5.1} s  {done}", self.0.elapsed().as_secs_f64());
    }
}
