//! etcd, the API server, the controller manager and the scheduler, with the defaults that users'
//! clusters have: what holds here has to hold there.

use std::time::Duration;

use anyhow::Result;

use super::address::{Node, SERVICE_CIDR, api_port};
use super::daemon::Daemons;
use super::layout::inside;
use super::machine::{Machine, in_network};
use crate::run;

/// 2 to 4 s on two idle cores.
const API_STARTS: Duration = Duration::from_secs(60);

/// The API server's program.
pub(crate) const API_SERVER: &str = "kube-apiserver";

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

/// Starts etcd and the API server, and does not wait for them.
pub(crate) fn start(machine: &Machine, daemons: &mut Daemons) -> Result<()> {
    daemons.start(machine, "etcd", "etcd", &etcd_arguments())?;
    start_api(machine, daemons)
}

/// Starts the API server, and does not wait for it.
fn start_api(machine: &Machine, daemons: &mut Daemons) -> Result<()> {
    daemons.start(machine, "apiserver", &inside(format!("bin/{API_SERVER}")), &api_arguments())
}

/// Starts the API server again after an outage, and waits until it is ready.
pub(crate) fn restart_api(machine: &Machine) -> Result<()> {
    let mut daemons = Daemons::default();
    start_api(machine, &mut daemons)?;
    await_api(machine, &mut daemons)
}

fn await_api(machine: &Machine, daemons: &mut Daemons) -> Result<()> {
    daemons.wait("apiserver", "the API server is ready", API_STARTS, || Ok(api_is_ready(machine)))
}

/// Waits for the API server, then starts what would give up if it came earlier.
pub(crate) fn finish(machine: &Machine, daemons: &mut Daemons) -> Result<()> {
    await_api(machine, daemons)?;
    let arguments = controller_manager_arguments();
    daemons.start(machine, "controller-manager", &inside("bin/kube-controller-manager"), &arguments)?;
    let arguments = client_arguments("kube-scheduler");
    daemons.start(machine, "scheduler", &inside("bin/kube-scheduler"), &arguments)
}

/// Asks as an anonymous client, which may see just this.
fn api_is_ready(machine: &Machine) -> bool {
    let certificate = machine.layout().certs().join("ca.crt");
    let mut curl = in_network(machine.cgroups(), machine.node(), "curl");
    curl.args(["--silent", "--fail", "--max-time", "2", "--cacert"]).arg(certificate);
    curl.arg(format!("https://127.0.0.1:{}/readyz", api_port()));
    run::output(&mut curl).is_ok_and(|answer| answer == "ok")
}

fn etcd_arguments() -> Vec<String> {
    let name = Node::FIRST;
    vec![
        format!("--name={name}"),
        format!("--data-dir={}", inside(format!("{name}/etcd"))),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        format!("--listen-peer-urls={ETCD_PEER}"),
        format!("--initial-advertise-peer-urls={ETCD_PEER}"),
        format!("--initial-cluster={name}={ETCD_PEER}"),
        // The data is worth nothing after a crash of the machine.
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

fn api_arguments() -> Vec<String> {
    let cert = |name: &str| inside(format!("certs/{name}"));
    vec![
        format!("--etcd-servers={ETCD}"),
        format!("--secure-port={}", api_port()),
        // Without a default route there is nothing to guess it from.
        format!("--advertise-address={}", Node::FIRST.address()),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        format!("--tls-cert-file={}", cert("apiserver.crt")),
        format!("--tls-private-key-file={}", cert("apiserver.key")),
        format!("--client-ca-file={}", cert("ca.crt")),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={}", cert("sa.pub")),
        format!("--service-account-signing-key-file={}", cert("sa.key")),
        format!("--kubelet-certificate-authority={}", cert("ca.crt")),
        format!("--kubelet-client-certificate={}", cert("kubelet-client.crt")),
        format!("--kubelet-client-key={}", cert("kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".into(),
    ]
}

fn controller_manager_arguments() -> Vec<String> {
    let cert = |name: &str| inside(format!("certs/{name}"));
    let mut arguments = client_arguments("kube-controller-manager");
    arguments.extend([
        "--use-service-account-credentials=true".into(),
        format!("--service-account-private-key-file={}", cert("sa.key")),
        format!("--root-ca-file={}", cert("ca.crt")),
        format!("--cluster-signing-cert-file={}", cert("ca.crt")),
        format!("--cluster-signing-key-file={}", cert("ca.key")),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        // The default is a folder of the machine's, and would be created there.
        "--flex-volume-plugin-dir=/var/lib/kubelet/volumeplugins".into(),
    ]);
    arguments
}

/// Common to the two that are clients of the API server. Their rate limits stay as they come:
/// 20 requests a second are what our users' controllers have, too.
fn client_arguments(user: &str) -> Vec<String> {
    let kubeconfig = inside(format!("certs/{user}.kubeconfig"));
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".into(),
        // There is only one of each.
        "--leader-elect=false".into(),
    ]
}
