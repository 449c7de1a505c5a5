//! START HERE (clients): their connections, and what one of them may cost.
//!
//! [`server`] accepts a connection if there is [`room`], and drives it as its [`activity`] allows. What hyper
//! reads comes through a [`stack`] of layers: the [`socket`] that notices who does not read, the [`flood`]
//! guard of HTTP/2 ([`frames`], [`fields`]), and the [`guard`] that keeps HTTP/1 strict ([`framing`]). How long a client
//! may keep us waiting is a [`rate`]; on the clock it is a [`pace`], of a body, a socket or one of the [`streams`] of
//! HTTP/2.

mod activity;
mod clients;
mod fields;
mod flood;
mod frames;
mod framing;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod guard;
mod pace;
mod rate;
mod room;
mod server;
mod socket;
mod stack;
mod streams;

pub(crate) use self::guard::broken_rule;
pub use self::{
    activity::Clocks,
    clients::Clients,
    rate::MinRate,
    server::{Connections, Front, Limits, Port, serve, serve_with},
};
pub(super) use self::{
    activity::OpenRequest,
    framing::{LONGEST_METHOD, Refusal},
    pace::Pace,
    stack::reset,
};
