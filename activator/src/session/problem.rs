//! The only table of the state API's error answers: problem details (RFC 9457) with a reason for machines.

use axum::{
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{Unavailable, condition::quoted};

/// Header that repeats the reason, for callers that do not read bodies.
const REASON: HeaderName = HeaderName::from_static("pilotlight-reason");

/// An answer that is not what the function asked for. Its text is the `detail` that the function reads.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("{0}")]
    BadRequest(String),
    #[error("the request needs `Authorization: Bearer` with the token in PILOTLIGHT_STATE_TOKEN")]
    Unauthenticated,
    #[error("this session id was not made for {0}")]
    Forbidden(pilotlight_crds::FunctionKey),
    #[error("the session has no data: none were written, or they were deleted or expired")]
    NotFound,
    #[error("there is nothing at this path; sessions are at /v1/session/<id>")]
    NoSuchPath,
    #[error("a session knows GET, HEAD, PUT and DELETE")]
    NoSuchMethod,
    #[error("{}", match current {
        Some(etag) => format!("what is there has the etag \"{etag}\": read it again and retry"),
        None => "there is nothing to match".to_owned(),
    })]
    PreconditionFailed { current: Option<String> },
    #[error("the data of a session may have at most {limit} bytes")]
    TooLarge { limit: usize },
    #[error("ttl: {0}")]
    BadTtl(String),
    #[error("{0}")]
    BadPrecondition(&'static str),
    #[error("Content-Type is application/json, and the body is not JSON: {0}")]
    BadJson(serde_json::Error),
    #[error("Content-Type must be at most 255 characters of ASCII")]
    BadContentType,
    #[error("the body ended early: {0}")]
    BodyIncomplete(String),
    #[error("the body did not arrive within {0} s")]
    BodySlow(u64),
    #[error("this function's writes, or all together, take too much memory at the moment")]
    Busy,
    #[error(
        "the store of sessions is away; whether a write was done is not known: read before you repeat it"
    )]
    Unavailable(Unavailable),
    #[error("this installation has no Redis, so it has no sessions")]
    Disabled,
}

impl Problem {
    /// Status, reason, title.
    const fn row(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest(_) => {
                (StatusCode::BAD_REQUEST, "bad-request", "The request breaks a rule of HTTP")
            }
            Self::Unauthenticated => {
                (StatusCode::UNAUTHORIZED, "state-unauthenticated", "The token is missing or wrong")
            }
            Self::Forbidden(_) => {
                (StatusCode::FORBIDDEN, "state-forbidden", "The session is not this function's")
            }
            Self::NotFound => (StatusCode::NOT_FOUND, "state-not-found", "The session has no data"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "state-no-such-path", "No such path"),
            Self::NoSuchMethod => (StatusCode::METHOD_NOT_ALLOWED, "state-no-such-method", "No such method"),
            Self::PreconditionFailed { .. } => {
                (StatusCode::PRECONDITION_FAILED, "state-precondition-failed", "The condition does not hold")
            }
            Self::TooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "state-too-large", "The data are too large")
            }
            Self::BadTtl(_) => (StatusCode::BAD_REQUEST, "state-bad-ttl", "The ttl is not usable"),
            Self::BadPrecondition(_) => {
                (StatusCode::BAD_REQUEST, "state-bad-precondition", "The condition is not usable")
            }
            Self::BadJson(_) => (StatusCode::BAD_REQUEST, "state-bad-json", "The body is not JSON"),
            Self::BadContentType => {
                (StatusCode::BAD_REQUEST, "state-bad-content-type", "The media type is not usable")
            }
            Self::BodyIncomplete(_) => {
                (StatusCode::BAD_REQUEST, "state-body-incomplete", "The body is incomplete")
            }
            Self::BodySlow(_) => (StatusCode::REQUEST_TIMEOUT, "state-body-slow", "The body came too slowly"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "state-busy", "Too many writes at once"),
            Self::Unavailable(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "state-unavailable", "The store of sessions is away")
            }
            Self::Disabled => (StatusCode::SERVICE_UNAVAILABLE, "state-disabled", "There are no sessions"),
        }
    }

    /// The headers that this answer has beyond those of all.
    fn headers(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Unauthenticated => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            // Waiting helps neither a caller without rights nor an installation without Redis.
            Self::Busy | Self::Unavailable(_) => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            Self::PreconditionFailed { current: Some(etag) } => {
                Some((ETAG, HeaderValue::try_from(quoted(etag)).ok()?))
            }
            _ => None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, reason, title) = self.row();
        let body = json!({
            "type": format!("urn:pilotlight:problem:{reason}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.to_string(),
            "reason": reason,
        });
        let headers = [(CONTENT_TYPE, "application/problem+json"), (REASON, reason)]
            .map(|(name, value)| (name, HeaderValue::from_static(value)));
        let mut response = (status, headers, body.to_string()).into_response();
        response.headers_mut().extend(self.headers());
        response
    }
}

impl From<Unavailable> for Problem {
    fn from(cause: Unavailable) -> Self {
        tracing::debug!(%cause, "an operation on a session was not done");
        Self::Unavailable(cause)
    }
}
