//! What the store counts.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Registry};

use super::doc::{MetricDoc, doc, opts, registered};

pub(super) const OPERATIONS: MetricDoc = doc(
    "pilotlight_state_operations_total",
    "counter",
    &["operation", "outcome"],
    "Operations on sessions in Redis, by outcome",
);
pub(super) const SECONDS: MetricDoc = doc(
    "pilotlight_state_operation_seconds",
    "histogram",
    &["operation"],
    "Time that operations in Redis took",
);
pub(super) const REDIS_UP: MetricDoc =
    doc("pilotlight_state_redis_up", "gauge", &[], "1 while Redis answers, 0 while it is away");

/// Bounds of the histogram, in seconds: an operation takes a fraction of a millisecond, and at most 0.1 s.
const BUCKETS: [f64; 8] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1];

/// Counters of the store's operations. Clones count together.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    operations: IntCounterVec,
    seconds: HistogramVec,
    /// 1 while Redis answers, 0 while the breaker is open.
    pub(crate) up: IntGauge,
}

impl StoreMetrics {
    /// Creates the metrics and registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let seconds = HistogramOpts::from(opts(SECONDS)).buckets(BUCKETS.to_vec());
        Ok(Self {
            operations: registered(registry, IntCounterVec::new(opts(OPERATIONS), OPERATIONS.labels)?)?,
            seconds: registered(registry, HistogramVec::new(seconds, SECONDS.labels)?)?,
            up: registered(registry, IntGauge::with_opts(opts(REDIS_UP))?)?,
        })
    }

    pub(crate) fn observe(&self, operation: &str, outcome: &str, took: Duration) {
        self.operations.with_label_values(&[operation, outcome]).inc();
        self.seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
    }
}
