//! The state API: a function reads and writes its sessions over plain HTTP.
//!
//! A function proves itself by a token that names it, and a session id is signed for one function. So which
//! function's data a request can reach is settled before Redis is asked, and by nothing that it could guess.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, RawQuery, State},
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use pilotlight_crds::{FunctionKey, Keys, SessionCookie, Span};
use serde::de::IgnoredAny;

use super::{
    Condition, Deleted, Put, SessionRef, Store,
    condition::{has_already, quoted},
    intake::{Intake, Permit},
    problem::Problem,
};
use crate::proxy::broken_rule;

/// The largest body that is taken unless the installation says otherwise.
pub const DEFAULT_LIMIT: usize = 256 << 10;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
/// What `?ttl=` may ask for; the same as a session's own ttl.
const TTLS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(9600 * 3600);
/// Longer media types are refused.
const MAX_CONTENT_TYPE: usize = 255;
/// Media type of a body that came without one (RFC 9110, section 8.3).
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// Tells the ttl of a function's sessions, `spec.session.cookie.ttl`; nothing if the function is not known.
pub type SessionTtl = Arc<dyn Fn(&FunctionKey) -> Option<Duration> + Send + Sync>;

/// What the state API works with.
#[derive(Clone)]
pub struct StateApi {
    /// Where sessions are; nothing in an installation without Redis.
    store: Option<Store>,
    keys: Arc<Keys>,
    session_ttl: SessionTtl,
    intake: Arc<Intake>,
}

impl fmt::Debug for StateApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateApi").field("store", &self.store).finish_non_exhaustive()
    }
}

impl StateApi {
    /// An API over `store` that takes bodies up to [`DEFAULT_LIMIT`].
    pub fn new(store: Option<Store>, keys: Arc<Keys>, session_ttl: SessionTtl) -> Self {
        Self { store, keys, session_ttl, intake: Intake::new(DEFAULT_LIMIT) }
    }

    /// Takes bodies up to `limit` bytes instead.
    #[must_use]
    pub fn with_limit(self, limit: usize) -> Self {
        Self { intake: Intake::new(limit), ..self }
    }

    fn store(&self) -> Result<&Store, Problem> {
        self.store.as_ref().ok_or(Problem::Disabled)
    }

    /// The session that a request may work on.
    fn session(&self, headers: &HeaderMap, id: &str) -> Result<SessionRef, Problem> {
        let token = bearer(headers).ok_or(Problem::Unauthenticated)?;
        let function = self.keys.verify_state_token(token).ok_or(Problem::Unauthenticated)?;
        match self.keys.verify_session_id(&function, id) {
            Some(id) => Ok(SessionRef::new(function, id)),
            None => Err(Problem::Forbidden(function)),
        }
    }

    /// How long data are to live after their last use.
    fn ttl(&self, function: &FunctionKey, query: Option<&str>) -> Result<Duration, Problem> {
        match asked_ttl(query.unwrap_or_default())? {
            Some(ttl) => Ok(ttl),
            None => Ok((self.session_ttl)(function).unwrap_or(SessionCookie::default().ttl.get())),
        }
    }

    /// Receives a body, and leave to keep it in memory.
    async fn receive(
        &self,
        function: &FunctionKey,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Bytes, Permit), Problem> {
        let limit = self.intake.limit();
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: usize| length > limit) {
            return Err(Problem::TooLarge { limit });
        }
        let permit = self.intake.admit(function, announced).ok_or(Problem::Busy)?;
        let received = tokio::time::timeout(BODY_TIME, Limited::new(body, limit).collect());
        match received.await {
            Err(_) => Err(Problem::BodySlow(BODY_TIME.as_secs())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::TooLarge { limit }),
            Ok(Err(error)) => Err(Problem::BodyIncomplete(error.to_string())),
            Ok(Ok(body)) => Ok((body.to_bytes(), permit)),
        }
    }
}

/// The routes of the state API.
pub fn router(state: StateApi) -> Router {
    Router::new()
        .route("/v1/session/{id}", get(read).put(write).delete(remove))
        .method_not_allowed_fallback(|| async { Problem::NoSuchMethod })
        .fallback(elsewhere)
        .with_state(state)
}

/// What is at no path of ours. The target `*` stands for a request that was refused before it came here.
async fn elsewhere(uri: Uri, headers: HeaderMap) -> Problem {
    match uri.path() {
        "*" => Problem::BadRequest(broken_rule(&headers).to_string()),
        _ => Problem::NoSuchPath,
    }
}

/// GET, and HEAD, whose body the router leaves out.
async fn read(
    State(state): State<StateApi>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let session = state.session(&headers, &id)?;
    let entry = state.store()?.get(&session).await?.ok_or(Problem::NotFound)?;
    let tag = quoted(&entry.etag);
    if has_already(&headers, &entry.etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    let described = [(CONTENT_TYPE, entry.content_type), (ETAG, tag), (CACHE_CONTROL, "no-store".to_owned())];
    Ok((described, entry.body).into_response())
}

async fn write(
    State(state): State<StateApi>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let session = state.session(&headers, &id)?;
    let store = state.store()?;
    let condition = Condition::of_write(&headers).map_err(Problem::BadPrecondition)?;
    let ttl = state.ttl(&session.function, query.as_deref())?;
    let content_type = content_type(headers.get(CONTENT_TYPE))?;
    let (body, _permit) = state.receive(&session.function, &headers, body).await?;
    if is_json(content_type) {
        serde_json::from_slice::<IgnoredAny>(&body).map_err(Problem::BadJson)?;
    }
    match store.put(&session, (content_type, &body), &condition, ttl).await? {
        Put::Created { etag } => Ok((StatusCode::CREATED, [(ETAG, quoted(&etag))]).into_response()),
        Put::Replaced { etag } => Ok((StatusCode::NO_CONTENT, [(ETAG, quoted(&etag))]).into_response()),
        Put::PreconditionFailed { current } => Err(Problem::PreconditionFailed { current }),
    }
}

async fn remove(
    State(state): State<StateApi>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let session = state.session(&headers, &id)?;
    let condition = Condition::of_write(&headers).map_err(Problem::BadPrecondition)?;
    match state.store()?.delete(&session, &condition).await? {
        Deleted::Gone => Ok(StatusCode::NO_CONTENT),
        Deleted::PreconditionFailed { current } => Err(Problem::PreconditionFailed { current }),
    }
}

/// The token of `Authorization: Bearer <token>`; the scheme's case does not matter.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The ttl in a query. Anything else in it is a mistake that would otherwise go unnoticed.
fn asked_ttl(query: &str) -> Result<Option<Duration>, Problem> {
    let bad = |why: String| Problem::BadTtl(why);
    let mut asked = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some(text) = pair.strip_prefix("ttl=") else {
            return Err(bad("the query knows only ttl, such as ?ttl=30m".to_owned()));
        };
        let ttl = text.parse::<Span>().map_err(|error| bad(error.to_string()))?.get();
        if !TTLS.contains(&ttl) {
            return Err(bad("it must be between 1s and 9600h".to_owned()));
        }
        if asked.replace(ttl).is_some() {
            return Err(bad("it is given more than once".to_owned()));
        }
    }
    Ok(asked)
}

fn content_type(value: Option<&HeaderValue>) -> Result<&str, Problem> {
    match value.map(HeaderValue::to_str) {
        None => Ok(UNKNOWN_TYPE),
        Some(Ok(text)) if text.len() <= MAX_CONTENT_TYPE => Ok(text),
        Some(_) => Err(Problem::BadContentType),
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_a_span_within_bounds() {
        for (query, seconds) in
            [("", None), ("ttl=30m", Some(1800)), ("ttl=1s", Some(1)), ("&ttl=9600h", Some(34_560_000))]
        {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(asked_ttl(query).unwrap(), expected, "{query}");
        }
        for query in ["ttl=", "ttl=30", "ttl=0s", "ttl=999ms", "ttl=9601h", "tll=30m", "ttl=1s&ttl=2s", "ttl"]
        {
            assert!(matches!(asked_ttl(query), Err(Problem::BadTtl(_))), "{query}");
        }
    }

    #[test]
    fn only_json_itself_is_checked() {
        for (text, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/jsonl", false),
            ("text/plain; a=application/json", false),
            ("", false),
        ] {
            assert_eq!(is_json(text), json, "{text}");
        }
    }
}
