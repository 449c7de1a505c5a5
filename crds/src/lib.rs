//! The vocabulary of Pilotlight: what a user writes, what the processes agree on.
//!
//! This crate has no client and no runtime. Reading order: [`FunctionSpec`] (what a user writes),
//! [`Scaling`], [`PodTemplate`], [`FunctionStatus`] (what Pilotlight answers), [`names`] (labels and
//! names derived from a Function), [`PodTrouble`] (why a pod does not start).

// `KubeSchema` repeats each struct inside a function, where `pub` reaches nobody.
#![allow(unreachable_pub)]

mod function;
pub mod key;
pub mod keys;
pub mod names;
mod pod;
mod scaling;
mod schema;
mod scheme;
mod session;
mod status;
mod template;
mod trouble;
mod units;

pub use crate::{
    function::{Function, FunctionSpec, Hold, PathPrefix, Probe, Protocol, Route, Timeouts},
    key::FunctionKey,
    keys::{ConnectionKey, InvalidKeys, Keys, SessionId},
    pod::ObservedPod,
    scaling::{Scaling, Target},
    schema::{crd_yaml, function_crd},
    scheme::{InvalidScheme, UrlScheme},
    session::{Affinity, Session, SessionCookie},
    status::{ColdStart, ColdStartPhases, FunctionStatus, LastDecision, ReplicaStatus, condition, reason},
    template::{PodTemplate, TemplateMetadata, TemplatePod},
    trouble::{PodTrouble, deployment_trouble, pod_trouble},
    units::{Bytes, InvalidUnit, Span},
};
