//! What tests and measurements on a real cluster share.
//!
//! Reading order: [`Cluster`] (how to reach it), [`scoped`] and [`Scope`] (a namespace for one test),
//! [`await_condition`] (the only way to wait), [`Caller`] (HTTP, open about connections), [`Load`] (requests
//! at a fixed rate), [`faults`] (restarts and outages).
//!
//! The cluster is the one that `KUBECONFIG` names; Pilotlight is installed in it. `PILOTLIGHT_URL` says
//! how to reach the activator, and `PILOTLIGHT_STATE_URL` the state API; without them the Services'
//! cluster IPs are used, which works in a network namespace of the cluster. `KUBECTL` and `HELM` name the
//! programs, `PILOTLIGHT_IMAGES` and `PILOTLIGHT_TAG` the images of the example functions.

mod cluster;
mod command;
pub mod faults;
mod http;
mod load;
pub mod objects;
mod scope;
mod wait;

pub use crate::{
    cluster::{Cluster, NAMESPACE, image},
    command::{helm, kubectl, machinery},
    http::{CallError, Caller, Connections, Reply, Timing, get, request},
    load::{Bad, Load, LoadReport, Running},
    scope::{Scope, disruptive, scoped},
    wait::{await_condition, stays},
};
