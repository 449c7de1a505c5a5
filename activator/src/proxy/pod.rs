//! START HERE (pods): the connections to them, and one request on one of them.
//!
//! [`forward()`] sends a request on a [`connection`] from the pod's [`pool`]; [`repeat`] says whether another pod may
//! get it too.

mod clock;
mod connection;
mod forward;
mod pool;
pub(super) mod repeat;

pub use self::pool::Pool;
pub(crate) use self::pool::{DIAL_TIMEOUT, adopt};
pub(super) use self::{
    connection::Connection,
    forward::{Answer, Failure, Terms, forward},
    pool::reset,
};
