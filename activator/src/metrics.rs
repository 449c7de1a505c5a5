//! START HERE (metrics): every one of the activator with name, unit and labels in one table, from which the
//! registration and `docs/metrics.md` are made.
//!
//! - here: requests, functions and the process
//! - [`peer`], [`session`], [`tls`]: what only those parts count

mod doc;
mod peer;
mod session;
mod tls;

use std::time::Duration;

use pilotlight_crds::FunctionKey;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use self::doc::{doc, opts, registered};
pub use self::{doc::MetricDoc, peer::PeerMetrics, session::StoreMetrics, tls::TlsMetrics};
use crate::{
    autoscaler::Reason,
    function::{ColdStart, Phase},
};

const FUNCTION: &[&str] = &["namespace", "function"];

const REQUESTS: MetricDoc = doc(
    "pilotlight_requests_total",
    "counter",
    &["namespace", "function", "class", "source"],
    "Requests answered, by class of the status (1xx to 5xx) and source of the answer (function or activator)",
);
const DURATION: MetricDoc = doc(
    "pilotlight_request_seconds",
    "histogram",
    FUNCTION,
    "From the request's head to the response's head, time held included",
);
const HOLD: MetricDoc =
    doc("pilotlight_hold_seconds", "histogram", FUNCTION, "How long held requests waited for a slot");
const IN_FLIGHT: MetricDoc = doc("pilotlight_in_flight", "gauge", FUNCTION, "Requests in flight to pods");
const HELD: MetricDoc = doc("pilotlight_held", "gauge", FUNCTION, "Requests held");
const OVERLOADED: MetricDoc = doc(
    "pilotlight_overloaded",
    "gauge",
    FUNCTION,
    "1 while the function is asked for more than it can serve, and the newest requests go first",
);
const OVERLOAD_EXPIRED: MetricDoc = doc(
    "pilotlight_overload_expired_total",
    "counter",
    FUNCTION,
    "Held requests that were told under overload that it takes too long (reason overloaded)",
);
const READY: MetricDoc = doc("pilotlight_ready_replicas", "gauge", FUNCTION, "Pods that take requests");
const SET_ASIDE: MetricDoc = doc(
    "pilotlight_pods_set_aside",
    "gauge",
    FUNCTION,
    "Pods that refused a connection or left requests unanswered, and are asked whether they are back",
);
const DESIRED: MetricDoc = doc("pilotlight_desired_replicas", "gauge", FUNCTION, "Replicas decided on");
const COLD_STARTS: MetricDoc = doc(
    "pilotlight_cold_starts_total",
    "counter",
    FUNCTION,
    "Holds that began with no ready pod and ended with an answer",
);
const COLD_PHASE: MetricDoc = doc(
    "pilotlight_cold_start_seconds",
    "histogram",
    &["phase"],
    "From the first held request of a cold start to each phase",
);
const DECISIONS: MetricDoc = doc(
    "pilotlight_decisions_total",
    "counter",
    &["namespace", "function", "reason"],
    "Scaling decisions that changed something, by reason",
);
const UNROUTED: MetricDoc = doc(
    "pilotlight_unrouted_requests_total",
    "counter",
    &["reason"],
    "Requests refused before a function was found",
);
const CONNECTIONS: MetricDoc = doc("pilotlight_connections", "gauge", &[], "Open client connections");
const LIMIT_REACHED: MetricDoc = doc(
    "pilotlight_limit_reached_total",
    "counter",
    &["limit"],
    "Client connections and streams ended because of a limit: address, flood, idle, memory, slow-head, slow-reader or slow-stream",
);
const SHORTAGE: MetricDoc = doc(
    "pilotlight_memory_shortage",
    "gauge",
    &[],
    "How short memory is: 0 not, 1 nothing is held and who keeps most for longest may be ended, 2 nothing new is taken",
);
const TUNNELS: MetricDoc =
    doc("pilotlight_tunnels", "gauge", &[], "Upgraded connections, such as WebSocket's, that are open");
const RETRIES: MetricDoc = doc(
    "pilotlight_retries_total",
    "counter",
    FUNCTION,
    "Requests sent again because a pod did not take them, or broke off before it answered and they may be repeated",
);
const SCALE_ERRORS: MetricDoc = doc(
    "pilotlight_scale_errors_total",
    "counter",
    FUNCTION,
    "Orders to scale that the API server refused or did not answer",
);
const LEASE_WAIT: MetricDoc = doc(
    "pilotlight_lease_wait_seconds",
    "histogram",
    &[],
    "From the first request that waits for a lease from the function's owner to the lease",
);
const WATCH_ERRORS: MetricDoc =
    doc("pilotlight_watch_errors_total", "counter", &["kind"], "Errors of the watches on the API server");

/// All metrics, for the docs.
pub const ALL: &[MetricDoc] = &[
    REQUESTS,
    DURATION,
    HOLD,
    IN_FLIGHT,
    HELD,
    OVERLOADED,
    OVERLOAD_EXPIRED,
    READY,
    SET_ASIDE,
    DESIRED,
    COLD_STARTS,
    COLD_PHASE,
    DECISIONS,
    UNROUTED,
    CONNECTIONS,
    LIMIT_REACHED,
    TUNNELS,
    SHORTAGE,
    RETRIES,
    SCALE_ERRORS,
    WATCH_ERRORS,
    LEASE_WAIT,
    peer::LIVE,
    peer::LEASED,
    peer::LENT,
    peer::REFUSED,
    session::OPERATIONS,
    session::SECONDS,
    session::REDIS_UP,
    tls::HANDSHAKES,
    tls::EXPIRY,
    tls::RELOADS,
];

/// Seconds: from what a warm function takes to what a client waits for.
const LATENCY_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Seconds: a round trip in a cluster takes a fraction of a millisecond.
const LEASE_BUCKETS: [f64; 10] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.1, 1.0, 10.0];
const COLD_BUCKETS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0, 5.0, 15.0];

/// Status classes, as the label `class` shows them.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The metrics of the process.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    hold: HistogramVec,
    in_flight: IntGaugeVec,
    held: IntGaugeVec,
    overloaded: IntGaugeVec,
    overload_expired: IntCounterVec,
    ready: IntGaugeVec,
    set_aside: IntGaugeVec,
    desired: IntGaugeVec,
    cold_starts: IntCounterVec,
    cold_phase: HistogramVec,
    decisions: IntCounterVec,
    retries: IntCounterVec,
    scale_errors: IntCounterVec,
    /// Requests refused before a function was found.
    pub unrouted: IntCounterVec,
    /// Open client connections.
    pub connections: IntGauge,
    /// Client connections and streams ended because of a limit.
    pub limit_reached: IntCounterVec,
    /// Open upgraded connections.
    pub tunnels: IntGauge,
    /// How short memory is.
    pub shortage: IntGauge,
    /// Errors of watches.
    pub watch_errors: IntCounterVec,
    lease_wait: Histogram,
}

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |doc: MetricDoc| registered(registry, IntCounterVec::new(opts(doc), doc.labels)?);
        let gauge = |doc: MetricDoc| registered(registry, IntGaugeVec::new(opts(doc), doc.labels)?);
        let histogram = |doc: MetricDoc, buckets: &[f64]| {
            let opts = HistogramOpts::from(opts(doc)).buckets(buckets.to_vec());
            registered(registry, HistogramVec::new(opts, doc.labels)?)
        };
        Ok(Self {
            requests: counter(REQUESTS)?,
            duration: histogram(DURATION, &LATENCY_BUCKETS)?,
            hold: histogram(HOLD, &LATENCY_BUCKETS)?,
            in_flight: gauge(IN_FLIGHT)?,
            held: gauge(HELD)?,
            overloaded: gauge(OVERLOADED)?,
            overload_expired: counter(OVERLOAD_EXPIRED)?,
            ready: gauge(READY)?,
            set_aside: gauge(SET_ASIDE)?,
            desired: gauge(DESIRED)?,
            cold_starts: counter(COLD_STARTS)?,
            cold_phase: histogram(COLD_PHASE, &COLD_BUCKETS)?,
            decisions: counter(DECISIONS)?,
            retries: counter(RETRIES)?,
            scale_errors: counter(SCALE_ERRORS)?,
            unrouted: counter(UNROUTED)?,
            connections: registered(registry, IntGauge::with_opts(opts(CONNECTIONS))?)?,
            limit_reached: counter(LIMIT_REACHED)?,
            tunnels: registered(registry, IntGauge::with_opts(opts(TUNNELS))?)?,
            shortage: registered(registry, IntGauge::with_opts(opts(SHORTAGE))?)?,
            watch_errors: counter(WATCH_ERRORS)?,
            lease_wait: histogram(LEASE_WAIT, &LEASE_BUCKETS)?.with_label_values::<&str>(&[]),
        })
    }

    /// The metrics of one function, looked up once.
    pub fn function(&self, key: &FunctionKey) -> FunctionMetrics {
        let labels = [key.namespace.as_str(), key.name.as_str()];
        let class = |source: &'static str| {
            CLASSES.map(|class| self.requests.with_label_values(&[labels[0], labels[1], class, source]))
        };
        FunctionMetrics {
            answered: [class("function"), class("activator")],
            duration: self.duration.with_label_values(&labels),
            hold: self.hold.with_label_values(&labels),
            in_flight: self.in_flight.with_label_values(&labels),
            held: self.held.with_label_values(&labels),
            overloaded: self.overloaded.with_label_values(&labels),
            overload_expired: self.overload_expired.with_label_values(&labels),
            ready: self.ready.with_label_values(&labels),
            set_aside: self.set_aside.with_label_values(&labels),
            desired: self.desired.with_label_values(&labels),
            cold_starts: self.cold_starts.with_label_values(&labels),
            cold_phases: Phase::ALL.map(|phase| self.cold_phase.with_label_values(&[phase.as_str()])),
            decisions: Reason::ALL
                .map(|reason| self.decisions.with_label_values(&[labels[0], labels[1], reason.as_str()])),
            retries: self.retries.with_label_values(&labels),
            scale_errors: self.scale_errors.with_label_values(&labels),
            lease_wait: self.lease_wait.clone(),
        }
    }

    /// Forgets a function that was deleted, so that series do not pile up.
    pub fn forget(&self, key: &FunctionKey) {
        let labels = [key.namespace.as_str(), key.name.as_str()];
        // "Not there" is the only error, and just what is wanted.
        for counter in [&self.overload_expired, &self.cold_starts, &self.retries, &self.scale_errors] {
            let _ = counter.remove_label_values(&labels);
        }
        let gauges =
            [&self.in_flight, &self.held, &self.overloaded, &self.ready, &self.set_aside, &self.desired];
        for gauge in gauges {
            let _ = gauge.remove_label_values(&labels);
        }
        for histogram in [&self.duration, &self.hold] {
            let _ = histogram.remove_label_values(&labels);
        }
        for class in CLASSES {
            for source in ["function", "activator"] {
                let _ = self.requests.remove_label_values(&[labels[0], labels[1], class, source]);
            }
        }
        for reason in Reason::ALL {
            let _ = self.decisions.remove_label_values(&[labels[0], labels[1], reason.as_str()]);
        }
    }
}

/// One open connection or tunnel, counted for as long as it lives.
pub(crate) struct Open(IntGauge);

impl Open {
    pub(crate) fn count(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Who made an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A pod of the function.
    Function,
    /// The activator itself.
    Activator,
}

/// The metrics of one function.
#[derive(Debug)]
pub struct FunctionMetrics {
    answered: [[IntCounter; CLASSES.len()]; 2],
    /// From head to head.
    pub duration: Histogram,
    /// Time held.
    pub hold: Histogram,
    /// Requests in flight.
    pub in_flight: IntGauge,
    /// Requests held.
    pub held: IntGauge,
    /// Whether there is overload.
    pub overloaded: IntGauge,
    /// Held requests given up under overload.
    pub overload_expired: IntCounter,
    /// Pods that take requests.
    pub ready: IntGauge,
    /// Pods that refused a connection or are silent.
    pub set_aside: IntGauge,
    /// Replicas decided on.
    pub desired: IntGauge,
    cold_starts: IntCounter,
    cold_phases: [Histogram; Phase::ALL.len()],
    decisions: [IntCounter; Reason::ALL.len()],
    /// Requests sent to another pod.
    pub retries: IntCounter,
    /// Orders to scale that failed.
    pub scale_errors: IntCounter,
    /// Time waited for a lease.
    pub lease_wait: Histogram,
}

impl FunctionMetrics {
    /// An answer goes out.
    pub fn answered(&self, status: http::StatusCode, source: Source, after: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.answered[source as usize][class].inc();
        self.duration.observe(after.as_secs_f64());
    }

    /// A cold start has ended with an answer.
    pub fn cold_start(&self, cold: &ColdStart) {
        self.cold_starts.inc();
        for phase in Phase::ALL {
            if let Some(after) = cold.at(phase) {
                self.cold_phases[phase as usize].observe(after.as_secs_f64());
            }
        }
    }

    /// A decision has changed something.
    pub fn decided(&self, reason: Reason) {
        self.decisions[reason as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_registered_as_documented_and_forgotten_with_its_function() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let key = FunctionKey::new("demo", "hello");
        let function = metrics.function(&key);
        function.answered(http::StatusCode::OK, Source::Function, Duration::from_millis(3));
        metrics.unrouted.with_label_values(&["x"]).inc();
        metrics.limit_reached.with_label_values(&["flood"]).inc();
        metrics.watch_errors.with_label_values(&["pods"]).inc();
        PeerMetrics::register(&registry).unwrap().refused.with_label_values(&["x"]).inc();
        StoreMetrics::register(&registry).unwrap().observe("get", "ok", Duration::ZERO);
        let tls = TlsMetrics::register(&registry).unwrap();
        tls.handshake("full");
        tls.serves("x", 1);
        tls.reloaded("x", true);
        let names: Vec<_> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        for doc in ALL {
            assert!(names.contains(&doc.name.to_owned()), "{}", doc.name);
        }
        metrics.forget(&key);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(!text.contains("hello"), "{text}");
    }
}
