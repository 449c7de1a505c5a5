//! Tests on a real cluster: Kubernetes, Pilotlight and Redis as users run them, nothing mocked.
//!
//! Each test has a namespace of its own and runs beside others, except for those that disturb all
//! functions. `cargo xtask test` brings the cluster; with one of your own, `KUBECONFIG` names it.

mod api;
mod deaths;
mod faults;
mod helm;
mod holding;
mod outages;
mod proxying;
mod rollout;
mod scaling;
mod sessions;
mod slowness;
mod support;
mod tls;
mod trouble;
mod users;
