//! Follows the Secrets with certificates, one watch each: the activator may read these and no others.

use std::{error::Error, sync::Arc, time::SystemTime};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use prometheus::IntCounter;
use tokio::sync::watch;

use super::{BadCertificate, Certificate, Certificates};
use crate::metrics::TlsMetrics;

/// What a watch keeps up to date.
#[derive(Clone, Debug)]
pub struct Served {
    /// The certificates.
    pub certificates: Arc<Certificates>,
    /// What is counted of them.
    pub metrics: TlsMetrics,
}

impl Served {
    /// Takes what a watch says of a Secret. Without it, or if it is no good, the certificate before is
    /// served on: nobody gains if clients are turned away.
    pub fn take(&self, secret: &str, object: Option<Secret>, now: SystemTime) {
        let taken = object
            .ok_or(BadCertificate::NoSecret)
            .and_then(|object| Certificate::read(&object.data.unwrap_or_default()))
            .and_then(|certificate| self.certificates.replace(secret, certificate, now));
        self.metrics.reloaded(secret, taken.is_ok());
        let served = self.certificates.of(secret);
        let (names, expiry) = served.map(|one| (one.names.clone(), one.expiry())).unwrap_or_default();
        self.metrics.serves(secret, expiry);
        match taken {
            Ok(()) => tracing::info!(secret, ?names, expiry, "a certificate is served"),
            Err(error) => {
                let error = &error as &dyn Error;
                tracing::error!(secret, error, served = ?names, "a Secret has no good certificate");
            }
        }
    }
}

/// Follows a Secret of the process's own namespace until the process ends; `true` once it has been asked
/// for, whether or not it is there.
pub(crate) fn start_watch(
    client: &Client,
    secret: String,
    served: Served,
    errors: IntCounter,
) -> watch::Receiver<bool> {
    let (synced, receiver) = watch::channel(false);
    let api = Api::<Secret>::default_namespaced(client.clone());
    tokio::spawn(async move {
        let events = watch_object(api, &secret).default_backoff();
        pin_mut!(events);
        // A watch that is begun again says again what is known.
        let mut known = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(object) => {
                    let version = object.as_ref().map(|object| object.metadata.resource_version.clone());
                    if known.replace(version.clone()) != Some(version) {
                        served.take(&secret, object, SystemTime::now());
                    }
                    synced.send_replace(true);
                }
                Err(error) => {
                    errors.inc();
                    tracing::warn!(secret, %error, "a watch broke off, and is begun again");
                }
            }
        }
    });
    receiver
}
