//! START HERE (pods): the connections to them, and one request on one of them.
//!
//! [`forward()`] sends a request on a [`connection`]: one from the pod's [`pool`], or a new one ([`connect`]).
//! [`repeat`] says whether another pod may get it too.

mod clock;
mod connect;
mod connection;
mod forward;
mod pool;
pub(super) mod repeat;

pub(crate) use self::connect::{DIAL_TIMEOUT, adopt};
pub use self::pool::Pool;
pub(super) use self::{
    connect::reset,
    connection::Connection,
    forward::{Answer, Failure, Terms, forward},
};
