//! One certificate as a Secret of type `kubernetes.io/tls` has it: read, checked, and what it says of itself.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::ByteString;
use rustls::{
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    sign::CertifiedKey,
};
use x509_cert::{
    Certificate as X509,
    der::{self, Decode as _},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// Keys of the Secret.
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Why a Secret's certificate is not used.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    /// It is not there, or no longer.
    #[error("there is no such Secret")]
    NoSecret,
    /// It is not a Secret of type `kubernetes.io/tls`.
    #[error("the Secret has no key `{0}`")]
    Missing(&'static str),
    /// What it has under the key is not PEM.
    #[error("`{key}` is not what it should be")]
    Pem {
        /// Which.
        key: &'static str,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// There is PEM, but no certificate.
    #[error("`tls.crt` holds no certificate")]
    Empty,
    /// The first certificate cannot be read.
    #[error("the first certificate in `tls.crt` is malformed")]
    Malformed(#[from] der::Error),
    /// The private key is of a kind that cannot be used, or belongs to another certificate.
    #[error("`tls.key` does not fit `tls.crt`")]
    Key(#[from] rustls::Error),
    /// Clients would refuse it.
    #[error("it is valid from {from} to {to}, and now is not between (seconds since 1970)")]
    OutOfDate {
        /// First second at which it is valid.
        from: u64,
        /// Last second at which it is valid.
        to: u64,
    },
}

/// A certificate that can be served.
#[derive(Debug)]
pub struct Certificate {
    /// The hosts that it is for, in lower case; `*.example.com` stands for one more label.
    pub names: Vec<String>,
    not_before: SystemTime,
    not_after: SystemTime,
    /// The chain, and what signs for it.
    pub(super) key: Arc<CertifiedKey>,
}

impl Certificate {
    /// Reads the data of a Secret.
    ///
    /// # Errors
    /// When a key is missing, is not PEM, or the private key does not belong to the certificate.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, BadCertificate> {
        let get = |key| data.get(key).map(|bytes| bytes.0.as_slice()).ok_or(BadCertificate::Missing(key));
        let chain: Vec<_> = CertificateDer::pem_slice_iter(get(CHAIN)?)
            .collect::<Result<_, _>>()
            .map_err(|source| BadCertificate::Pem { key: CHAIN, source })?;
        let key = PrivateKeyDer::from_pem_slice(get(KEY)?)
            .map_err(|source| BadCertificate::Pem { key: KEY, source })?;
        let leaf = X509::from_der(chain.first().ok_or(BadCertificate::Empty)?)?;
        let validity = leaf.tbs_certificate().validity();
        let at = |time: x509_cert::time::Time| UNIX_EPOCH + time.to_unix_duration();
        let (not_before, not_after) = (at(validity.not_before), at(validity.not_after));
        let names = names(&leaf)?;
        let key = Arc::new(CertifiedKey::from_der(chain, key, &provider())?);
        Ok(Self { names, not_before, not_after, key })
    }

    /// The last second at which it is valid, since 1970.
    pub fn expiry(&self) -> u64 {
        seconds(self.not_after)
    }

    /// Whether clients whose clock says `now` would take it.
    ///
    /// # Errors
    /// When they would not.
    pub fn in_date(&self, now: SystemTime) -> Result<(), BadCertificate> {
        match self.not_before <= now && now <= self.not_after {
            true => Ok(()),
            false => {
                Err(BadCertificate::OutOfDate { from: seconds(self.not_before), to: seconds(self.not_after) })
            }
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// The only implementation of cryptography, named so that nothing depends on a process-wide default.
pub(super) fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// The DNS names of a certificate. Clients have ignored its common name for years (RFC 9525).
fn names(leaf: &X509) -> Result<Vec<String>, der::Error> {
    let found = leaf.tbs_certificate().get_extension::<SubjectAltName>()?;
    let names = found.map(|(_, names)| names.0).unwrap_or_default();
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
        _ => None,
    });
    Ok(dns.collect())
}
