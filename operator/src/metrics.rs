//! Every metric of this process. One table serves registration, `/metrics` and the generated documentation.

use std::time::Duration;

use pilotlight_crds::{Function, condition};
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// A metric as the documentation lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricDoc {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// What it counts.
    pub help: String,
}

/// The declaration of a metric.
struct Declared {
    name: &'static str,
    kind: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
}

const RECONCILES: Declared = Declared {
    name: "pilotlight_operator_reconciles_total",
    kind: "counter",
    labels: &["result"],
    help: "Reconciliations of Functions by result: ok, invalid_spec, or the reason of the failure.",
};
const DURATION: Declared = Declared {
    name: "pilotlight_operator_reconcile_duration_seconds",
    kind: "histogram",
    labels: &[],
    help: "Time that a reconciliation of a Function took.",
};
const FUNCTIONS: Declared = Declared {
    name: "pilotlight_operator_functions",
    kind: "gauge",
    labels: &["condition", "status"],
    help: "Functions by the status of each of their conditions; reported by the leader.",
};
const UNREADABLE: Declared = Declared {
    name: "pilotlight_operator_unreadable_objects_total",
    kind: "counter",
    labels: &["kind"],
    help: "Objects that a watch skipped because they could not be parsed.",
};
const LEADER: Declared = Declared {
    name: "pilotlight_operator_leader",
    kind: "gauge",
    labels: &[],
    help: "1 in the process that holds the Lease, else 0.",
};

/// Reconciliations take a few milliseconds without API calls and some tens with them.
const BUCKETS: [f64; 10] = [0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// Handles of all metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    duration: HistogramVec,
    functions: IntGaugeVec,
    unreadable: IntCounterVec,
    /// Whether this process leads.
    pub leader: IntGauge,
}

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// Two metrics have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self {
            reconciles: IntCounterVec::new(RECONCILES.opts(), RECONCILES.labels)?,
            duration: HistogramVec::new(
                HistogramOpts::new(DURATION.name, DURATION.help).buckets(BUCKETS.to_vec()),
                DURATION.labels,
            )?,
            functions: IntGaugeVec::new(FUNCTIONS.opts(), FUNCTIONS.labels)?,
            unreadable: IntCounterVec::new(UNREADABLE.opts(), UNREADABLE.labels)?,
            leader: IntGauge::with_opts(LEADER.opts())?,
            registry,
        };
        metrics.registry.register(Box::new(metrics.reconciles.clone()))?;
        metrics.registry.register(Box::new(metrics.duration.clone()))?;
        metrics.registry.register(Box::new(metrics.functions.clone()))?;
        metrics.registry.register(Box::new(metrics.unreadable.clone()))?;
        metrics.registry.register(Box::new(metrics.leader.clone()))?;
        #[cfg(target_os = "linux")]
        metrics.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Counts a reconciliation.
    pub(crate) fn reconciled(&self, result: &str, took: Duration) {
        self.reconciles.with_label_values(&[result]).inc();
        self.duration.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    /// Counts an object that a watch skipped.
    pub(crate) fn unreadable(&self, kind: &str) {
        self.unreadable.with_label_values(&[kind]).inc();
    }

    /// Counts the Functions by condition, from what the leader's watch knows.
    pub(crate) fn count_functions<'a>(&self, functions: impl Iterator<Item = &'a Function>) {
        self.functions.reset();
        for function in functions {
            let conditions = function.status.iter().flat_map(|status| &status.conditions);
            let ours = conditions.filter(|c| {
                [condition::READY, condition::ROUTABLE, condition::HEALTHY].contains(&c.type_.as_str())
            });
            for condition in ours {
                self.functions.with_label_values(&[condition.type_.as_str(), &condition.status]).inc();
            }
        }
    }

    /// All metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// A metric could not be encoded.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl Declared {
    fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }
}

/// Every metric that is particular to this process, for the documentation.
pub fn describe() -> Vec<MetricDoc> {
    [RECONCILES, DURATION, FUNCTIONS, UNREADABLE, LEADER]
        .into_iter()
        .map(|declared| MetricDoc {
            name: declared.name.to_owned(),
            kind: declared.kind.to_owned(),
            labels: declared.labels.iter().map(|&label| label.to_owned()).collect(),
            help: declared.help.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_described_is_shown_with_its_labels() {
        let metrics = Metrics::new().unwrap();
        metrics.reconciled("ok", Duration::from_millis(3));
        metrics.unreadable("Pod");
        metrics.functions.with_label_values(&["Ready", "True"]).inc();
        let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
        for doc in describe() {
            assert!(text.contains(&format!("# HELP {} {}", doc.name, doc.help)), "{}", doc.name);
            assert!(text.contains(&format!("# TYPE {} {}", doc.name, doc.kind)), "{}", doc.name);
        }
        #[cfg(target_os = "linux")]
        assert!(text.contains("process_resident_memory_bytes"));
    }
}
