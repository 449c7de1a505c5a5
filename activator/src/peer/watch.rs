//! The activators' own pods, as a watch shows them.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, runtime::watcher};
use tokio::sync::mpsc;

use super::{event::Event, members::PeerPod, owner::MemberId};
use crate::{
    metrics::Metrics,
    watch::{Follow, follow},
};

/// Where the activators' pods are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Uid of this activator's pod.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Label selector for the pods of all activators of the installation.
    pub selector: String,
    /// The port on which each of them listens to its peers.
    pub port: u16,
}

/// Reports what becomes of the activators' pods until the process ends.
pub(super) fn start(
    client: &Client,
    config: &PeerConfig,
    metrics: &Metrics,
    events: mpsc::UnboundedSender<Event>,
) {
    let pods = Api::<Pod>::namespaced(client.clone(), &config.namespace);
    let selected = watcher::Config::default().labels(&config.selector);
    let mut listed =
        follow(pods, selected, Activators { port: config.port, events: events.clone() }, metrics);
    tokio::spawn(async move {
        if listed.wait_for(|listed| *listed).await.is_ok() {
            let _ = events.send(Event::Listed);
        }
    });
}

#[derive(Debug)]
struct Activators {
    port: u16,
    events: mpsc::UnboundedSender<Event>,
}

impl Follow for Activators {
    type Object = Pod;
    type Id = String;
    const KIND: &'static str = "activators";

    fn id(object: &Pod) -> Option<String> {
        object.metadata.uid.clone()
    }

    fn apply(&self, object: Pod) {
        let Some(id) = Self::id(&object) else { return };
        let status = object.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Failed" | "Succeeded")) {
            return self.delete(&id);
        }
        let address: Option<IpAddr> = status.and_then(|status| status.pod_ip.as_deref()?.parse().ok());
        let address = address.map(|address| SocketAddr::new(address, self.port));
        let pod = PeerPod { address, ending: object.metadata.deletion_timestamp.is_some() };
        // The receiver is gone only while the process ends.
        let _ = self.events.send(Event::Pod(MemberId::from(id), pod));
    }

    fn delete(&self, uid: &String) {
        let _ = self.events.send(Event::Gone(MemberId::from(uid.as_str())));
    }
}
