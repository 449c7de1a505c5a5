//! START HERE (pods): the connections to them, and one request on one of them.
//!
//! [`send()`] offers a request to pods until one takes it. [`forward`] is one attempt, on a [`connection`] of HTTP/1 or
//! [`http2`]: one from the pod's [`pool`], or a new one ([`connect`]). [`repeat`] says whether another pod may get what one has seen.

mod connect;
mod connection;
mod forward;
mod http2;
mod pool;
mod repeat;
mod send;

pub(crate) use self::connect::{DIAL_TIMEOUT, adopt};
pub use self::pool::Pool;
pub(super) use self::{connect::reset, connection::Connection, forward::Terms, send::send};
