//! The activator: in the path of every request to a Function, and the one who decides how many replicas
//! a Function has.
//!
//! Life of a request: [`proxy`] routes it ([`index`]), takes a slot or holds it ([`function`],
//! [`slots`]), forwards it, and gives the slot back when the response's body ends.
//! Life of a decision: [`function`] pokes the [`autoscaler`], which looks, decides and orders.
//! Around them: several activators ([`peer`]), [`session`]s, [`tls`], a budget of [`memory`], [`metrics`];
//! [`run`] wires everything together, and [`drain`] ends it.
//! Reading order: `proxy.rs`, `function.rs`, `slots.rs`, `autoscaler.rs`, `autoscaler/decide.rs`.

/// Gives back to the kernel what is freed, and soon: [`memory`] is measured from outside.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub mod admin;
pub mod autoscaler;
pub mod config;
pub mod drain;
pub mod function;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod index;
pub mod memory;
pub mod metrics;
pub mod peer;
pub mod probe;
pub mod proxy;
pub mod run;
pub mod session;
pub mod slots;
pub mod status;
pub mod telemetry;
mod time;
pub mod tls;
pub mod watch;
