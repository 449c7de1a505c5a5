//! The certificates that are served, and which of them a connection gets.
//!
//! The name that a client asks for (SNI, RFC 6066) is looked up among the names in the certificates
//! themselves: the name itself, then a wildcard for it. Whoever asks for no name or for one that no
//! certificate has gets the first one: that serves callers by address, and lets others see what is wrong.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::certificate::{BadCertificate, Certificate};

/// The certificates of the installation: an immutable table that is swapped on change, so that open
/// connections and handshakes under way notice nothing.
#[derive(Debug)]
pub struct Certificates(ArcSwap<Table>);

/// Certificates by name.
#[derive(Clone, Debug, Default)]
struct Table {
    /// By Secret, in the order in which they were listed; the first to have a name is the one for it.
    slots: Vec<(String, Option<Arc<Certificate>>)>,
    exact: HashMap<String, Arc<Certificate>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Arc<Certificate>>,
}

impl Certificates {
    /// Places for the certificates of these Secrets, none of which is there yet.
    pub fn new(secrets: &[String]) -> Self {
        let slots = secrets.iter().map(|secret| (secret.clone(), None)).collect();
        Self(ArcSwap::from_pointee(Table { slots, ..Table::default() }))
    }

    /// Puts a Secret's new certificate in the place of the one before.
    ///
    /// # Errors
    /// When it is out of date. It is served all the same if there was none before: a client can then tell
    /// what is wrong, and one that was served is still served after a restart.
    pub fn replace(
        &self,
        secret: &str,
        certificate: Certificate,
        now: SystemTime,
    ) -> Result<(), BadCertificate> {
        let in_date = certificate.in_date(now);
        if in_date.is_ok() || self.of(secret).is_none() {
            let certificate = Arc::new(certificate);
            self.0.rcu(|table| table.with(secret, &certificate));
        }
        in_date
    }

    /// The certificate of a Secret that is served.
    pub(super) fn of(&self, secret: &str) -> Option<Arc<Certificate>> {
        let table = self.0.load();
        let (_, certificate) = table.slots.iter().find(|(name, _)| name == secret)?;
        certificate.clone()
    }

    /// Whether a certificate has this name (lower case, without port).
    pub fn covers(&self, host: &str) -> bool {
        self.0.load().find(host).is_some()
    }

    /// Whether a request for `host` came on the connection of another certificate than its own, as when a
    /// client takes one connection for several hosts (RFC 9110, section 15.5.20). A host without a
    /// certificate of its own is at home everywhere.
    pub fn misdirected(&self, server_name: &str, host: &str) -> bool {
        let table = self.0.load();
        let served = table.answer(Some(server_name));
        let same = |own| served.is_some_and(|served| Arc::ptr_eq(own, served));
        table.find(host).is_some_and(|own| !same(own))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.load().answer(None).is_none()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().answer(hello.server_name()).map(|certificate| Arc::clone(&certificate.key))
    }
}

impl Table {
    fn with(&self, secret: &str, certificate: &Arc<Certificate>) -> Self {
        let mut table = Self { slots: self.slots.clone(), ..Self::default() };
        if let Some((_, slot)) = table.slots.iter_mut().find(|(name, _)| name == secret) {
            *slot = Some(Arc::clone(certificate));
        }
        for certificate in table.slots.iter().filter_map(|(_, certificate)| certificate.as_ref()) {
            for name in &certificate.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut table.wildcard, parent),
                    None => (&mut table.exact, name.as_str()),
                };
                names.entry(name.to_owned()).or_insert_with(|| Arc::clone(certificate));
            }
        }
        table
    }

    /// The certificate that has a name.
    fn find(&self, name: &str) -> Option<&Arc<Certificate>> {
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }

    /// The certificate for whoever asks for this name, or for none.
    fn answer(&self, server_name: Option<&str>) -> Option<&Arc<Certificate>> {
        let own = server_name.and_then(|name| self.find(name));
        own.or_else(|| self.slots.iter().find_map(|(_, certificate)| certificate.as_ref()))
    }
}
