//! Sessions in Redis: the pod that served one last, and the data that its function keeps.
//!
//! - **Atomic.** Every operation is one Lua script over keys of one session, so that a compare-and-set is
//!   one step of Redis. No script touches a key that it was not given.
//! - **Bounded.** Every operation ends within its budget, 100 ms, and at once while Redis is known to be away ([`link`]).
//! - **Honest.** A write is acknowledged when Redis has said so, and never before. A write that was not
//!   acknowledged carries a deadline by Redis' own clock: Redis drops it when it gets to it too late, so it
//!   cannot overwrite what was acknowledged in the meantime.
//! - **Expiry.** Data live for their ttl after their last use: each read, each write and each request of the
//!   session starts it anew.
//! - **ETags** are 64 random bits made for each write. A counter would begin anew, and so repeat, when data
//!   are deleted or expire and are written again; a hash of the content would not notice that a value was
//!   changed and changed back.
//!
//! Needs Redis 7 or later: errors inside scripts keep their code from then on.
//!
//! [`link`]: super::link

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use redis::{FromRedisValue, Script, ScriptInvocation};

use super::{Condition, InvalidRedisUrl, SessionRef, Unavailable, link::Link};
use crate::metrics::StoreMetrics;

static GET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/get.lua")));
static VISIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/visit.lua")));
static TIE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/tie.lua")));
static PUT: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("lua/guard.lua"), include_str!("lua/put.lua"))));
static DELETE: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("lua/guard.lua"), include_str!("lua/delete.lua"))));

/// A session's data as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the function wrote, byte for byte.
    pub body: Bytes,
    /// The media type that it came with.
    pub content_type: String,
    /// Names this write; without quotes.
    pub etag: String,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// There was nothing before.
    Created {
        /// Names this write.
        etag: String,
    },
    /// It took the place of an earlier write.
    Replaced {
        /// Names this write.
        etag: String,
    },
    /// The condition did not hold; nothing was written.
    PreconditionFailed {
        /// The etag of what is there, if anything is.
        current: Option<String>,
    },
}

/// What became of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is not there any more; perhaps it never was.
    Gone,
    /// The condition did not hold; nothing was deleted.
    PreconditionFailed {
        /// The etag of what is there, if anything is.
        current: Option<String>,
    },
}

/// What a guarded script answers: a word, and the etag that it found.
type Verdict = (String, Option<String>);

/// The sessions of all functions. Clones share one connection.
#[derive(Clone, Debug)]
pub struct Store {
    link: Arc<Link>,
    metrics: StoreMetrics,
}

impl Store {
    /// The store in the Redis at `url`, each of whose operations takes at most `budget`. Returns at once,
    /// whether or not Redis can be reached. Needs a Tokio runtime.
    pub fn open(url: &str, budget: Duration, metrics: StoreMetrics) -> Result<Self, InvalidRedisUrl> {
        let link = Link::open(url, budget, metrics.up.clone())?;
        Ok(Self { link: Arc::new(link), metrics })
    }

    /// A request of the session came: the uid of the pod that served it last, if it is tied to one. Lets the
    /// tie live for `ttl` from now on, and the data for their own ttl.
    pub async fn pod(&self, session: &SessionRef, ttl: Duration) -> Result<Option<String>, Unavailable> {
        self.visit("pod", session, ttl).await
    }

    /// The same for a caller who does not ask for the pod.
    pub async fn touch(&self, session: &SessionRef, ttl: Duration) -> Result<(), Unavailable> {
        self.visit("touch", session, ttl).await.map(drop)
    }

    /// Ties the session to the pod with this uid.
    pub async fn tie(&self, session: &SessionRef, pod: &str, ttl: Duration) -> Result<(), Unavailable> {
        let script = |_| {
            let mut call = TIE.key(session.redis_key("pod"));
            call.arg(pod).arg(millis(ttl));
            call
        };
        self.call("tie", script).await
    }

    /// The session's data.
    pub async fn get(&self, session: &SessionRef) -> Result<Option<Entry>, Unavailable> {
        let found: Option<(Vec<u8>, String, String)> =
            self.call("get", |_| GET.key(session.redis_key("data"))).await?;
        Ok(found.map(|(body, content_type, etag)| Entry { body: body.into(), content_type, etag }))
    }

    /// Writes the session's data, to live for `ttl` after their last use, if `condition` holds.
    pub async fn put(
        &self,
        session: &SessionRef,
        (content_type, body): (&str, &[u8]),
        condition: &Condition,
        ttl: Duration,
    ) -> Result<Put, Unavailable> {
        let etag = new_etag()?;
        let script = |deadline| {
            let mut call = PUT.key(session.redis_key("data"));
            call.arg(deadline).arg(condition.word()).arg(body).arg(content_type).arg(&etag).arg(millis(ttl));
            call.arg(condition.etags());
            call
        };
        let (word, current): Verdict = self.call("put", script).await?;
        match word.as_str() {
            "created" => Ok(Put::Created { etag }),
            "replaced" => Ok(Put::Replaced { etag }),
            "mismatch" => Ok(Put::PreconditionFailed { current }),
            _ => Err(Unavailable::TimedOut),
        }
    }

    /// Deletes the session's data if `condition` holds.
    pub async fn delete(&self, session: &SessionRef, condition: &Condition) -> Result<Deleted, Unavailable> {
        let script = |deadline| {
            let mut call = DELETE.key(session.redis_key("data"));
            call.arg(deadline).arg(condition.word()).arg(condition.etags());
            call
        };
        let (word, current): Verdict = self.call("delete", script).await?;
        match word.as_str() {
            "deleted" => Ok(Deleted::Gone),
            "mismatch" => Ok(Deleted::PreconditionFailed { current }),
            _ => Err(Unavailable::TimedOut),
        }
    }

    async fn visit(
        &self,
        operation: &'static str,
        session: &SessionRef,
        ttl: Duration,
    ) -> Result<Option<String>, Unavailable> {
        let script = |_| {
            let mut call = VISIT.key(session.redis_key("pod"));
            call.key(session.redis_key("data")).arg(millis(ttl));
            call
        };
        self.call(operation, script).await
    }

    async fn call<'a, T: FromRedisValue>(
        &self,
        operation: &'static str,
        script: impl FnOnce(u64) -> ScriptInvocation<'a>,
    ) -> Result<T, Unavailable> {
        let began = Instant::now();
        let answer = self.link.call(script).await;
        let outcome = answer.as_ref().err().map_or("ok", Unavailable::label);
        self.metrics.observe(operation, outcome, began.elapsed());
        answer
    }
}

fn new_etag() -> Result<String, Unavailable> {
    let mut random = [0; 8];
    rand::fill(&mut random).map_err(|_| Unavailable::Refused("the system has no randomness".into()))?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
}
