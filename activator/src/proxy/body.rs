//! Bodies as they cross the proxy: streamed, watched for silence, and bound to what they hold on to.
//!
//! - [`request`]: a client's, on its way to a pod; [`progress`]: how far it has come; [`supply`]: where it comes from;
//!   [`uploads`]: how one over HTTP/2 ends that nobody wants any longer
//! - [`response`]: a pod's, on its way to a client, or one of our own

mod progress;
mod request;
mod response;
mod supply;
mod uploads;

pub use self::response::ResponseBody;
pub(super) use self::{
    progress::Progress,
    request::RequestBody,
    response::{Bounds, Cut, Source},
    supply::{KEPT_BODY, Kept},
    uploads::Uploads,
};
