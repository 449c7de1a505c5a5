//! The activator on a port of this machine, so that what the demonstration types works for the user,
//! too.

use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, bail};

use super::Ended;
use crate::cluster::names;
use crate::run;
use crate::site::Site;

/// Where the activator answers.
pub(super) fn port() -> u16 {
    names::port(18080)
}

const STARTS: Duration = Duration::from_secs(20);

/// The forwarding. Ends when this is dropped, or with the cluster if that is ours.
#[derive(Debug)]
#[must_use = "a forwarded port is free again when this is dropped"]
pub(super) struct Forward {
    _process: Option<Ended>,
}

impl Forward {
    pub(super) fn start(site: &Site) -> Result<Self> {
        match site.cluster() {
            Some(cluster) => {
                cluster.forward(port(), &format!("{}:80", activator(site)?))?;
                Ok(Self { _process: None })
            }
            None => Ok(Self { _process: Some(port_forward(site)?) }),
        }
    }
}

/// The address of the activator's Service.
fn activator(site: &Site) -> Result<String> {
    let mut kubectl = site.command("kubectl");
    kubectl.args([
        "-n",
        "pilotlight",
        "get",
        "service/pilotlight-activator",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ]);
    run::output(&mut kubectl)
}

fn port_forward(site: &Site) -> Result<Ended> {
    let mut kubectl = site.command("kubectl");
    kubectl.args([
        "-n",
        "pilotlight",
        "port-forward",
        "service/pilotlight-activator",
        &format!("{}:80", port()),
    ]);
    let mut child = Ended(kubectl.stdout(Stdio::null()).spawn()?);
    run::wait_until("the port is forwarded", STARTS, || {
        if let Some(status) = child.0.try_wait()? {
            bail!("kubectl port-forward ended: {status}");
        }
        Ok(TcpStream::connect(("127.0.0.1", port())).is_ok())
    })?;
    Ok(child)
}
