//! What is counted of TLS.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::doc::{MetricDoc, doc, opts, registered};

pub(super) const HANDSHAKES: MetricDoc = doc(
    "pilotlight_tls_handshakes_total",
    "counter",
    &["result"],
    "TLS handshakes: full, resumed, or why there was none (timeout, left, not-tls, refused, incompatible, no-certificate, broken)",
);
pub(super) const EXPIRY: MetricDoc = doc(
    "pilotlight_certificate_expiry_seconds",
    "gauge",
    &["secret"],
    "When the certificate that is served expires, in seconds since 1970; 0 while there is none",
);
pub(super) const RELOADS: MetricDoc = doc(
    "pilotlight_certificate_reloads_total",
    "counter",
    &["secret", "result"],
    "Certificates read from Secrets: taken, or refused (missing, malformed or out of date; the one before is served on)",
);

/// Counters of TLS. Clones count together.
#[derive(Clone, Debug)]
pub struct TlsMetrics {
    handshakes: IntCounterVec,
    expiry: IntGaugeVec,
    reloads: IntCounterVec,
}

impl TlsMetrics {
    /// Creates the metrics and registers them.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |doc: MetricDoc| registered(registry, IntCounterVec::new(opts(doc), doc.labels)?);
        let expiry = registered(registry, IntGaugeVec::new(opts(EXPIRY), EXPIRY.labels)?)?;
        Ok(Self { handshakes: counter(HANDSHAKES)?, expiry, reloads: counter(RELOADS)? })
    }

    /// A handshake has ended.
    pub(crate) fn handshake(&self, result: &str) {
        self.handshakes.with_label_values(&[result]).inc();
    }

    /// A Secret's certificate is served from now on, until a second since 1970.
    pub(crate) fn serves(&self, secret: &str, expiry: u64) {
        self.expiry.with_label_values(&[secret]).set(i64::try_from(expiry).unwrap_or(i64::MAX));
    }

    /// A Secret was read.
    pub(crate) fn reloaded(&self, secret: &str, taken: bool) {
        let result = if taken { "taken" } else { "refused" };
        self.reloads.with_label_values(&[secret, result]).inc();
    }
}
