//! START HERE (sessions): who a caller is across requests, and the state that outlives the pods.
//!
//! ```text
//!  proxy --> cookie.rs   which session does this request belong to?      no I/O, never waits
//!        --> store.rs    which pod served it last?                       at most 100 ms
//!  pods  --> api.rs      GET/PUT/DELETE /v1/session/{id}                 a pod reads and writes its session
//!              |-> condition.rs  If-Match, If-None-Match
//!              |-> intake.rs     how much memory bodies may take
//!              `-> problem.rs    the only table of the state API's error answers
//!  store.rs  --> lua/*.lua       one script an operation: each is atomic in Redis
//!            `-> link.rs         the connection to Redis, and the breaker in front of it
//! ```
//!
//! Redis being away costs a request without a session nothing, and a request with one at most 100 ms once:
//! after that the breaker answers at once until Redis is back.

pub mod api;
mod condition;
pub mod cookie;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod intake;
mod link;
mod problem;
pub mod store;

use pilotlight_crds::{FunctionKey, SessionId};

pub use self::{
    api::{StateApi, router},
    condition::Condition,
    link::{DEFAULT_BUDGET, InvalidRedisUrl, Unavailable},
    store::{Deleted, Entry, Put, Store},
};

/// One session of one function. Only a verified [`SessionId`] gets here, so what ends up in the name of a
/// Redis key is always base64url, never a caller's text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionRef {
    /// The function that the session belongs to.
    pub function: FunctionKey,
    /// The session's id, verified for this function.
    pub id: SessionId,
}

impl SessionRef {
    /// The session `id` of `function`.
    pub const fn new(function: FunctionKey, id: SessionId) -> Self {
        Self { function, id }
    }

    /// Redis key of `part` of this session. The braces make a hash tag: all parts of a session live on one
    /// node of a Redis Cluster, so that a script may touch them together.
    fn redis_key(&self, part: &str) -> String {
        format!("pilotlight:{{{}/{}}}:{part}", self.function, self.id.random())
    }
}
