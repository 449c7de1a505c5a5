//! Bodies as they cross the proxy: streamed, watched for silence, and bound to what they hold on to.
//!
//! - [`incoming`]: one as it comes in
//! - [`request`]: a client's, on its way to a pod; [`progress`]: how far it has come; [`supply`]: where it comes from
//! - [`response`]: a pod's, on its way to a client, or one of our own

mod incoming;
mod progress;
mod request;
mod response;
mod supply;

pub(super) use self::{
    incoming::{Incoming, IncomingError},
    progress::Progress,
    response::{Bounds, Cut, Source},
    supply::{KEPT_BODY, Kept},
};
pub use self::{request::RequestBody, response::ResponseBody};
