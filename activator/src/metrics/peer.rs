//! What the peers count.

use prometheus::{IntCounterVec, IntGauge, Registry};

use super::doc::{MetricDoc, doc, opts, registered};

pub(super) const LIVE: MetricDoc =
    doc("pilotlight_peers", "gauge", &[], "Other activators that this one is in touch with");
pub(super) const LEASED: MetricDoc =
    doc("pilotlight_leases_held", "gauge", &[], "Slots of pods that this activator has from other owners");
pub(super) const LENT: MetricDoc =
    doc("pilotlight_leases_lent", "gauge", &[], "Slots of pods that this activator, as the owner, has lent");
pub(super) const REFUSED: MetricDoc = doc(
    "pilotlight_peer_refused_total",
    "counter",
    &["reason"],
    "Connections to the peers' port that were ended because of what was sent, by reason",
);

/// Gauges and counters of the peers. Clones count together.
#[derive(Clone, Debug)]
pub struct PeerMetrics {
    /// Peers that are live.
    pub live: IntGauge,
    /// Leases held.
    pub leased: IntGauge,
    /// Leases lent.
    pub lent: IntGauge,
    /// Connections ended because of what was sent.
    pub refused: IntCounterVec,
}

impl PeerMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |doc: MetricDoc| registered(registry, IntGauge::with_opts(opts(doc))?);
        let refused = registered(registry, IntCounterVec::new(opts(REFUSED), REFUSED.labels)?)?;
        Ok(Self { live: gauge(LIVE)?, leased: gauge(LEASED)?, lent: gauge(LENT)?, refused })
    }
}
