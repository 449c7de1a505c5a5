//! What the activator needs of a Function, read from the resource once and swapped when it changes.

use std::time::Duration;

use pilotlight_crds::{Function, FunctionKey, FunctionSpec, Protocol, Session};

use crate::{
    autoscaler::Policy,
    slots::{HoldBounds, Limit},
};

/// How long each part of a forwarded request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the forwarded request to the head of the response.
    pub first_byte: Duration,
    /// Silence in either body.
    pub idle: Duration,
    /// From the forwarded request to the end of the response.
    pub total: Duration,
}

/// A Function as the activator serves it.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionConfig {
    /// Namespace and name.
    pub key: FunctionKey,
    /// The port that pods serve.
    pub port: u16,
    /// How pods speak.
    pub protocol: Protocol,
    /// Path that must answer before a pod is used; `None`: the port must accept a connection.
    pub probe_path: Option<String>,
    /// Hard limit in flight per pod.
    pub limit: Limit,
    /// What may wait.
    pub hold: HoldBounds,
    /// How long a request may wait.
    pub hold_timeout: Duration,
    /// How long a forwarded request may take.
    pub timeouts: Timeouts,
    /// How to scale.
    pub policy: Policy,
    /// Sessions, if the Function has them.
    pub session: Option<Session>,
    /// The revision that serves, as the operator says.
    pub serving: Option<String>,
    /// The revision of the current spec.
    pub latest: Option<String>,
}

impl FunctionConfig {
    /// Reads a Function; `None` if it has no identity yet, which the API server never sends.
    pub fn read(function: &Function) -> Option<Self> {
        let FunctionSpec { port, protocol, probe, concurrency, hold, timeouts, session, .. } = &function.spec;
        let status = function.status.as_ref();
        Some(Self {
            key: function.key()?,
            port: *port,
            protocol: *protocol,
            probe_path: probe.as_ref().map(|probe| probe.path.clone()),
            limit: Limit::new(*concurrency),
            hold: HoldBounds { requests: hold.requests, bytes: hold.bytes.get() },
            hold_timeout: hold.timeout.get(),
            timeouts: Timeouts {
                first_byte: timeouts.first_byte.get(),
                idle: timeouts.idle.get(),
                total: timeouts.total.get(),
            },
            policy: Policy::new(&function.spec),
            session: session.clone(),
            serving: status.and_then(|status| status.revision.clone()),
            latest: status.and_then(|status| status.latest_revision.clone()),
        })
    }
}
