//! What runs on every node: containerd, the kubelet and kube-proxy.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::address::{DNS_SERVICE, Node, POD_CIDR};
use super::daemon::Daemons;
use super::layout::inside;
use super::machine::Machine;
use crate::{run, tools};

/// The pause image's name, as the runtime is told and as the image is tagged.
pub(crate) const PAUSE_IMAGE: &str = "pilotlight.local/pause:dev";

const RUNTIME_STARTS: Duration = Duration::from_secs(30);
const SOCKET: &str = "/run/containerd/containerd.sock";

/// Starts the container runtime and waits until it takes images.
pub(crate) fn start_runtime(machine: &Machine, daemons: &mut Daemons) -> Result<()> {
    let node = machine.node();
    configure(machine)?;
    let config = inside(format!("{node}/etc/containerd.toml"));
    daemons.start(machine, "containerd", "containerd", &[format!("--config={config}")])?;
    let socket = machine.file(SOCKET);
    let listens = || Ok(UnixStream::connect(&socket).is_ok());
    daemons.wait("containerd", &format!("containerd listens on {node}"), RUNTIME_STARTS, listens)
}

/// Starts what makes the machine a node of the cluster. The runtime and the API server must be
/// there: the kubelet ends at once without the first, and is slow to try again without the second.
pub(crate) fn join(machine: &Machine, daemons: &mut Daemons) -> Result<()> {
    let node = machine.node();
    let kubelet = [
        format!("--config={}", inside(format!("{node}/etc/kubelet.json"))),
        format!("--kubeconfig={}", inside(format!("certs/{node}.kubeconfig"))),
        format!("--hostname-override={node}"),
        format!("--node-ip={}", node.address()),
        "--root-dir=/var/lib/kubelet".into(),
    ];
    daemons.start(machine, "kubelet", &inside("bin/kubelet"), &kubelet)?;
    let proxy = [format!("--config={}", inside(format!("{node}/etc/kube-proxy.json")))];
    daemons.start(machine, "kube-proxy", &inside("bin/kube-proxy"), &proxy)
}

/// Puts an image archive into the node's store.
pub(crate) fn load(machine: &Machine, archive: &Path) -> Result<()> {
    let file = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
    // By standard input: the archive may be where the node's own mounts hide it.
    let mut import = machine.command("ctr");
    import.args(["--namespace=k8s.io", "images", "import", "-"]);
    run::output_from(&mut import, file).map(drop)
}

fn configure(machine: &Machine) -> Result<()> {
    let node = machine.node();
    let folder = machine.layout().node(node).join("etc");
    fs::create_dir_all(folder.join("cni"))?;
    let files = [
        ("containerd.toml", containerd(node)?),
        ("cni/10-pilotlight.conflist", pretty(&pod_network(node))),
        ("kubelet.json", pretty(&kubelet(node))),
        ("kube-proxy.json", pretty(&kube_proxy(node))),
    ];
    for (name, content) in files {
        fs::write(folder.join(name), content).with_context(|| format!("writing {name}"))?;
    }
    Ok(())
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Version 2 of the format, which containerd 1.x and 2.x both read.
fn containerd(node: Node) -> Result<String> {
    let runc = tools::find("runc").context("no runc")?;
    let plugins = tools::cni_plugins().ok_or_else(|| anyhow!("no CNI plugins"))?;
    Ok(format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "{SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Lowering the score needs a capability that a container or a small virtual machine may lack;
  # runc then fails with an error that says nothing about it.
  restrict_oom_score_adj = true
  disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "{}"
  SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{}"
  conf_dir = "{}"
"#,
        runc.display(),
        plugins.display(),
        inside(format!("{node}/etc/cni")),
    ))
}

/// Point-to-point links rather than a bridge: no ARP on the way to a pod, and traffic between pods
/// of one node passes the node's rules without further settings.
fn pod_network(node: Node) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "mtu": 1500,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/pod-addresses",
                "routes": [{ "dst": "0.0.0.0/0" }],
                "ranges": [[{ "subnet": node.pods() }]],
            },
        }],
    })
}

fn kubelet(node: Node) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": inside("certs/ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": inside(format!("certs/{node}-serving.crt")),
        "tlsPrivateKeyFile": inside(format!("certs/{node}-serving.key")),
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_SERVICE],
        "resolvConf": inside("resolv.conf"),
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "maxPods": 250,
        "cgroupDriver": "cgroupfs",
        // 1.36 refuses cgroup v1 unless told otherwise; under cgroup2 this says nothing.
        "failCgroupV1": false,
        // The node is part of a machine that does other work: nothing of it can be reserved, its
        // disk is not the node's to clean up, and its swap is none of our business.
        "enforceNodeAllocatable": [],
        "evictionHard": { "memory.available": "100Mi" },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "failSwapOn": false,
        "oomScoreAdj": 0,
    })
}

fn kube_proxy(node: Node) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": node.to_string(),
        "clientConnection": { "kubeconfig": inside("certs/kube-proxy.kubeconfig") },
        "oomScoreAdj": 0,
        // Zero leaves the limits of the machine's connection tracking alone.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    })
}
