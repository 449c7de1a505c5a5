//! The network between nodes: a namespace a node, and one more that holds nothing but the bridge
//! they are plugged into. None of it is connected to the machine's own network, so nothing in the
//! cluster can reach out, and nothing outside can reach in.

use std::process::Command;
use std::{fs, path::Path};

use anyhow::Result;

use super::address::{Node, SERVICE_CIDR};
use super::names;
use crate::run;

const BRIDGE: &str = "bridge";
const NAMESPACES: &str = "/run/netns";

/// The file that stands for a node's network namespace.
pub(crate) fn path(node: Node) -> String {
    format!("{NAMESPACES}/{}", namespace(node))
}

/// Makes the bridge that nodes are plugged into.
pub(crate) fn add_switch() -> Result<()> {
    let switch = switch();
    ip(&format!("netns add {switch}"))?;
    ip(&format!("-n {switch} link add {BRIDGE} type bridge"))?;
    ip(&format!("-n {switch} link set {BRIDGE} up"))
}

/// Makes a node's network and plugs it in.
pub(crate) fn add_node(node: Node) -> Result<()> {
    let (inside, switch) = (namespace(node), switch());
    ip(&format!("netns add {inside}"))?;
    ip(&format!("-n {inside} link add eth0 type veth peer name {node} netns {switch}"))?;
    ip(&format!("-n {switch} link set {node} master {BRIDGE} up"))?;
    ip(&format!("-n {inside} addr add {}/24 dev eth0", node.address()))?;
    ip(&format!("-n {inside} link set eth0 up"))?;
    ip(&format!("-n {inside} link set lo up"))?;
    // There is no default route. Without this one a packet to a Service would find no route at all,
    // and never get to the rule that rewrites its destination.
    ip(&format!("-n {inside} route add {SERVICE_CIDR} dev eth0"))?;
    for other in Node::first(Node::MAX).filter(|&other| other != node) {
        ip(&format!("-n {inside} route add {} via {}", other.pods(), other.address()))?;
    }
    Ok(())
}

/// Unplugs a node, or plugs it in again.
pub(crate) fn set_link(node: Node, up: bool) -> Result<()> {
    ip(&format!("-n {} link set {node} {}", switch(), if up { "up" } else { "down" }))
}

/// The cluster's network namespaces that exist.
pub(crate) fn namespaces() -> Vec<String> {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix())).collect()
}

/// Removes all of it.
pub(crate) fn remove() -> Result<()> {
    for name in namespaces() {
        ip(&format!("netns del {name}"))?;
    }
    remove_empty_folder();
    Ok(())
}

/// `ip netns add` mounts the folder on itself and never undoes it. Others may use it too: it goes
/// only when nothing is left in it, and failing to remove it harms nobody.
fn remove_empty_folder() {
    let empty = fs::read_dir(NAMESPACES).is_ok_and(|mut entries| entries.next().is_none());
    if empty && Path::new(NAMESPACES).exists() {
        let _ = run::output(Command::new("umount").args(["--no-mtab", NAMESPACES]));
        let _ = fs::remove_dir(NAMESPACES);
    }
}

/// What the names of this cluster's namespaces begin with, and no other cluster's.
fn prefix() -> String {
    format!("pilotlight{}-", names::suffix())
}

fn switch() -> String {
    format!("{}switch", prefix())
}

fn namespace(node: Node) -> String {
    format!("{}{node}", prefix())
}

fn ip(arguments: &str) -> Result<()> {
    run::output(Command::new("ip").args(arguments.split(' '))).map(drop)
}
