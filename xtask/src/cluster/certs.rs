//! The cluster's certificates and the kubeconfigs made from them. One authority signs all of them;
//! both are made anew for each cluster, which takes a fraction of a second.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::address::{API_SERVICE, Node, api_port};
use super::layout::{Layout, inside};
use crate::run;

/// What openssl is told about each kind of certificate. Its own defaults vary with the distribution.
const OPENSSL: &str = "\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
";

/// Clusters live for hours.
const DAYS: &str = "30";

/// A certificate to be signed.
struct Leaf {
    file: String,
    /// As openssl takes it: `/O=group/CN=user`.
    subject: String,
    /// Names and addresses that a server answers to; empty for clients.
    names: String,
}

fn client(file: impl Into<String>, subject: impl Into<String>) -> Leaf {
    Leaf { file: file.into(), subject: subject.into(), names: String::new() }
}

/// Makes everything that the given nodes need.
pub(crate) fn create(layout: &Layout, nodes: &[Node]) -> Result<()> {
    let folder = layout.certs();
    fs::set_permissions(layout.root(), PermissionsExt::from_mode(0o700))?;
    fs::write(folder.join("openssl.cnf"), OPENSSL)?;
    authority(&folder)?;
    service_account_key(&folder)?;
    let leaves = leaves(nodes);
    // Each is a process that mostly waits for its start-up: together they take little longer than one.
    thread::scope(|scope| {
        let signing: Vec<_> = leaves.iter().map(|leaf| scope.spawn(|| sign(&folder, leaf))).collect();
        signing.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("signing panicked"))?)
    })?;
    write_kubeconfigs(layout, nodes)
}

fn leaves(nodes: &[Node]) -> Vec<Leaf> {
    let mut leaves = vec![
        Leaf { file: "apiserver".into(), subject: "/CN=kube-apiserver".into(), names: api_names() },
        client("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
        client("admin", "/O=system:masters/CN=admin"),
        client("kube-controller-manager", "/CN=system:kube-controller-manager"),
        client("kube-scheduler", "/CN=system:kube-scheduler"),
        client("kube-proxy", "/CN=system:kube-proxy"),
    ];
    for node in nodes {
        let subject = format!("/O=system:nodes/CN=system:node:{node}");
        let names = format!("DNS:{node},IP:{}", node.address());
        leaves.push(client(node.to_string(), &subject));
        leaves.push(Leaf { file: format!("{node}-serving"), subject, names });
    }
    leaves
}

fn api_names() -> String {
    let names =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(|name| format!("DNS:{name}"));
    let first = Node::FIRST.address();
    format!(
        "{},DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:{first},IP:{API_SERVICE}",
        names.join(",")
    )
}

fn authority(folder: &Path) -> Result<()> {
    request(folder, "ca", "authority", "/CN=pilotlight-cluster-ca", &[])
}

fn sign(folder: &Path, leaf: &Leaf) -> Result<()> {
    let mut extra = vec!["-CA", "ca.crt", "-CAkey", "ca.key"];
    let names = format!("subjectAltName={}", leaf.names);
    if !leaf.names.is_empty() {
        extra.extend(["-addext", &names]);
    }
    request(folder, &leaf.file, "leaf", &leaf.subject, &extra)
}

/// Makes a key and a certificate for it.
fn request(folder: &Path, file: &str, kind: &str, subject: &str, extra: &[&str]) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl
        .current_dir(folder)
        .args([
            "req",
            "-x509",
            "-config",
            "openssl.cnf",
            "-extensions",
            kind,
            "-days",
            DAYS,
            "-subj",
            subject,
        ])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-keyout", &format!("{file}.key"), "-out", &format!("{file}.crt")])
        .args(extra);
    run::output(&mut openssl).map(drop)
}

/// The key that signs service accounts' tokens, and its public half.
fn service_account_key(folder: &Path) -> Result<()> {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        run::output(command.current_dir(folder).args(arguments.split(' ')))
    };
    openssl("ecparam -name prime256v1 -genkey -noout -out sa.key")?;
    openssl("ec -in sa.key -pubout -out sa.pub").map(drop)
}

fn write_kubeconfigs(layout: &Layout, nodes: &[Node]) -> Result<()> {
    let server = |host: &str| format!("https://{host}:{}", api_port());
    let (local, remote) = (server("127.0.0.1"), server(&Node::FIRST.address()));
    for user in ["kube-controller-manager", "kube-scheduler"] {
        write(&layout.certs().join(format!("{user}.kubeconfig")), &kubeconfig(&local, user))?;
    }
    let on_nodes = nodes.iter().map(Node::to_string).chain(["kube-proxy".into()]);
    for user in on_nodes {
        write(&layout.certs().join(format!("{user}.kubeconfig")), &kubeconfig(&remote, &user))?;
    }
    write_admin_kubeconfig(layout, &local)
}

/// The one that people use: self-contained, so that it can be copied away.
fn write_admin_kubeconfig(layout: &Layout, server: &str) -> Result<()> {
    let mut config = kubeconfig(server, "admin");
    let embed =
        |file: &str| -> Result<Value> { Ok(STANDARD.encode(fs::read(layout.certs().join(file))?).into()) };
    config["clusters"][0]["cluster"] =
        json!({ "server": server, "certificate-authority-data": embed("ca.crt")? });
    config["users"][0]["user"] =
        json!({ "client-certificate-data": embed("admin.crt")?, "client-key-data": embed("admin.key")? });
    write(&layout.kubeconfig(), &config)
}

/// A kubeconfig for a component inside a node, with its certificate by reference.
fn kubeconfig(server: &str, user: &str) -> Value {
    let file = |name: &str| inside(format!("certs/{name}"));
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "pilotlight",
            "cluster": { "server": server, "certificate-authority": file("ca.crt") },
        }],
        "users": [{
            "name": user,
            "user": {
                "client-certificate": file(&format!("{user}.crt")),
                "client-key": file(&format!("{user}.key")),
            },
        }],
        "contexts": [{ "name": "pilotlight", "context": { "cluster": "pilotlight", "user": user } }],
        "current-context": "pilotlight",
    })
}

fn write(file: &PathBuf, config: &Value) -> Result<()> {
    fs::write(file, format!("{config:#}\n")).with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_a_server_and_a_client() {
        let nodes: Vec<_> = Node::first(2).collect();
        let files: Vec<_> = leaves(&nodes).into_iter().map(|leaf| leaf.file).collect();
        for file in ["n1", "n1-serving", "n2", "n2-serving"] {
            assert!(files.iter().any(|known| known == file), "{file}");
        }
    }
}
