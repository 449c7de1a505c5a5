//! HTTP/2 on the crate h2 itself, which hyper uses as well: hyper sends no interim responses over it, takes a stream
//! that was cancelled for one that has ended, and needs a task for each stream.
//!
//! What both sides of the proxy share: [`received`], a body that comes; [`sending`], one that goes; [`stream`], both
//! directions of a tunnel; [`pings`], which find peers that have vanished.

mod pings;
mod received;
mod sending;
mod stream;

pub(super) use self::{pings::Pings, received::Received, sending::Sending, stream::TunnelStream};
