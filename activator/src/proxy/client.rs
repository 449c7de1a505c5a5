//! START HERE (clients): their connections, and what one of them may cost.
//!
//! [`server`] accepts a [`connection`] if there is [`room`], and [`drive`]s it as its [`activity`] allows. What comes is
//! read from a [`socket`] that notices who does not read. HTTP/1 is hyper's, behind the [`guard`] that keeps it strict
//! ([`framing`]). [`http2`] is h2's, behind the [`flood`] guard ([`frames`], [`fields`]): its [`streams`] have their say in
//! [turns](turn), and what they say goes out [together](gather). How long a client may keep us waiting is a [`rate`]; on
//! the clock it is a [`pace`], of a body, a socket or a stream.

mod activity;
mod answers;
mod clients;
mod connection;
mod date;
mod drive;
mod fields;
mod flood;
mod frames;
mod framing;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod gather;
mod guard;
mod http2;
mod pace;
mod rate;
mod room;
mod server;
mod socket;
mod streams;
mod turn;

pub(crate) use self::guard::broken_rule;
pub use self::{
    activity::Clocks,
    clients::Clients,
    rate::MinRate,
    server::{Connections, Front, Limits, Port, serve, serve_with},
};
pub(super) use self::{
    activity::OpenRequest,
    connection::reset,
    framing::{LONGEST_METHOD, Refusal},
    pace::Pace,
};
