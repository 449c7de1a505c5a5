//! A metric as the docs show it, and as it is registered.

use prometheus::{Opts, Registry, core::Collector};

/// A metric as the docs show it.
#[derive(Clone, Copy, Debug)]
pub struct MetricDoc {
    /// Its name, with the unit.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// The parts of a [`MetricDoc`], in its order.
pub(super) const fn doc(
    name: &'static str,
    kind: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> MetricDoc {
    MetricDoc { name, kind, labels, help }
}

/// How a metric is made.
pub(super) fn opts(doc: MetricDoc) -> Opts {
    Opts::new(doc.name, doc.help)
}

/// The metric, which the registry shows from now on.
pub(super) fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
