//! Our own answers: one table from what went wrong to what the caller is told (RFC 9457).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use super::{
    client::Refusal,
    grpc::{self, Call, Code},
    trace::Trace,
};
use crate::{function::HoldError, tls::Misuse};

/// Header with the reason of an answer that the activator made itself.
const REASON_HEADER: &str = "pilotlight-reason";

/// Why the activator answers in a function's place.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// The request breaks a rule of HTTP.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The request came on a connection that is for another host.
    #[error(
        "the connection was made for another host, which has another certificate: make one for this host"
    )]
    Misdirected,
    /// The host is served by HTTPS only.
    #[error("this host is reached by HTTPS: {0}")]
    HttpsOnly(String),
    /// The request's bytes break a rule of HTTP/1.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No Function answers there.
    #[error("no function answers on host `{host}` and path `{path}`")]
    NotFound {
        /// The host as received.
        host: String,
        /// The path as received.
        path: String,
    },
    /// The process has no memory left for requests.
    #[error("this activator's memory is used up")]
    MemoryFull,
    /// There is no slot.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// Pods were there, and none could be connected to.
    #[error("no pod could be connected to: {0}")]
    Connect(String),
    /// A pod took the request and broke off before it answered.
    #[error("the pod broke off before it answered: {0}")]
    Broken(String),
    /// The client sends its body too slowly.
    #[error("the request's body came too slowly, and the function waited for it")]
    SlowBody,
    /// A pod answered, and not in HTTP.
    #[error("the pod's answer is malformed: {0}")]
    Malformed(String),
    /// A pod took the request and did not answer in time.
    #[error("the function did not begin to answer within timeouts.firstByte ({0:?})")]
    FirstByte(std::time::Duration),
    /// The deadline of a gRPC call is over.
    #[error("the call's deadline (grpc-timeout) is over")]
    Deadline {
        /// Whether a pod had taken it.
        reached_pod: bool,
    },
    /// What a pod answered to an upgrade makes no sense.
    #[error("the upgrade failed: {0}")]
    Upgrade(&'static str),
    /// An extended CONNECT for a protocol other than WebSocket.
    #[error("the only protocol of an extended CONNECT that passes is websocket")]
    UnknownProtocol,
    /// WebSocket for a pod whose HTTP/2 cannot carry it.
    #[error("the function's HTTP/2 does not announce extended CONNECT (RFC 8441), which WebSocket needs")]
    NoTunnels,
}

impl From<Misuse> for ProxyError {
    fn from(misuse: Misuse) -> Self {
        match misuse {
            Misuse::Protocol => Self::BadRequest("HTTP/2 over TLS is agreed on in the handshake, by ALPN"),
            Misuse::Misdirected => Self::Misdirected,
        }
    }
}

/// What the caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Status of the answer.
    pub(super) status: StatusCode,
    /// A stable word for programs.
    pub(super) reason: &'static str,
    /// Whether any of the request reached a pod: if not, it can be repeated without harm.
    pub(super) reached_pod: bool,
    /// Seconds after which a repetition makes sense.
    pub(super) retry_after: Option<u32>,
}

impl ProxyError {
    /// The only table of statuses and reasons.
    pub(super) fn verdict(&self) -> Verdict {
        let verdict =
            |status, reason, reached_pod, retry_after| Verdict { status, reason, reached_pod, retry_after };
        match self {
            Self::BadRequest(_) => verdict(StatusCode::BAD_REQUEST, "bad-request", false, None),
            Self::Misdirected => verdict(StatusCode::MISDIRECTED_REQUEST, "misdirected-request", false, None),
            Self::HttpsOnly(_) => verdict(StatusCode::PERMANENT_REDIRECT, "https-only", false, None),
            Self::Refused(Refusal::TargetTooLong) => {
                verdict(StatusCode::URI_TOO_LONG, "target-too-long", false, None)
            }
            Self::Refused(Refusal::HeadTooLong | Refusal::TooManyFields) => {
                verdict(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", false, None)
            }
            Self::Refused(Refusal::UnknownVersion) => {
                verdict(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "unknown-version", false, None)
            }
            Self::Refused(_) => verdict(StatusCode::BAD_REQUEST, "bad-request", false, None),
            Self::NotFound { .. } => verdict(StatusCode::NOT_FOUND, "no-such-function", false, None),
            Self::MemoryFull => verdict(StatusCode::SERVICE_UNAVAILABLE, "activator-full", false, Some(1)),
            Self::Hold(HoldError::TooManyRequests) => {
                verdict(StatusCode::SERVICE_UNAVAILABLE, "hold-requests-exceeded", false, Some(1))
            }
            Self::Hold(HoldError::TooManyBytes) => {
                verdict(StatusCode::SERVICE_UNAVAILABLE, "hold-bytes-exceeded", false, Some(1))
            }
            Self::Hold(HoldError::ProcessFull) => {
                verdict(StatusCode::SERVICE_UNAVAILABLE, "activator-full", false, Some(1))
            }
            Self::Hold(HoldError::Overloaded) => {
                verdict(StatusCode::SERVICE_UNAVAILABLE, "overloaded", false, Some(1))
            }
            Self::Hold(HoldError::Timeout { .. }) => {
                verdict(StatusCode::GATEWAY_TIMEOUT, "hold-timeout", false, Some(1))
            }
            Self::Hold(HoldError::CannotStart { .. }) => {
                verdict(StatusCode::SERVICE_UNAVAILABLE, "cannot-start", false, Some(5))
            }
            Self::Hold(HoldError::Leaving) => {
                verdict(StatusCode::SERVICE_UNAVAILABLE, "activator-leaving", false, Some(1))
            }
            Self::Hold(HoldError::Deleted) => verdict(StatusCode::NOT_FOUND, "function-deleted", false, None),
            Self::Connect(_) => verdict(StatusCode::BAD_GATEWAY, "connect-failed", false, Some(1)),
            Self::Malformed(_) => verdict(StatusCode::BAD_GATEWAY, "pod-malformed", true, None),
            Self::Broken(_) => verdict(StatusCode::BAD_GATEWAY, "pod-broke-off", true, None),
            // RFC 9110, section 15.5.9.
            Self::SlowBody => verdict(StatusCode::REQUEST_TIMEOUT, "slow-body", true, None),
            Self::FirstByte(_) => verdict(StatusCode::GATEWAY_TIMEOUT, "first-byte-timeout", true, None),
            Self::Deadline { reached_pod } => {
                verdict(StatusCode::GATEWAY_TIMEOUT, "deadline-exceeded", *reached_pod, None)
            }
            Self::Upgrade(_) => verdict(StatusCode::BAD_GATEWAY, "upgrade-failed", true, None),
            Self::UnknownProtocol => verdict(StatusCode::NOT_IMPLEMENTED, "unknown-protocol", false, None),
            Self::NoTunnels => verdict(StatusCode::NOT_IMPLEMENTED, "websocket-unsupported", false, None),
        }
    }

    /// Whether a connection of HTTP/1 is closed behind the answer. After a request that breaks the rules nobody can be
    /// sure where the next one begins; after one whose body came too slowly the rest of it would; and an open
    /// connection is memory, too.
    fn closes(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_)
                | Self::Refused(_)
                | Self::SlowBody
                | Self::MemoryFull
                | Self::Hold(HoldError::ProcessFull)
        )
    }

    /// The same in gRPC's codes (`statuscodes.md`), where there is a better one than the status has.
    fn code(&self) -> Code {
        match self {
            Self::Deadline { .. } | Self::FirstByte(_) => Code::DeadlineExceeded,
            Self::Hold(
                HoldError::TooManyRequests
                | HoldError::TooManyBytes
                | HoldError::ProcessFull
                | HoldError::Overloaded,
            ) => Code::ResourceExhausted,
            _ => Code::of(self.verdict().status),
        }
    }
}

/// The body of RFC 9457, with our extensions.
#[derive(Debug, Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    reason: &'a str,
    reached_pod: bool,
    trace_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
}

/// Lies with an answer behind which a connection of HTTP/1 is closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closes;

/// What is known of a request before it is routed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Its trace.
    pub(super) trace: Trace,
    /// The gRPC call that it is, if it is one.
    pub(super) call: Option<Call>,
}

/// The answer for an error; `function` is `namespace/name` once it is known.
pub(super) fn respond(error: &ProxyError, asked: &Asked, function: Option<String>) -> Response<Full<Bytes>> {
    let Verdict { reason, retry_after, .. } = error.verdict();
    let mut response = match asked.call {
        Some(_) => trailers_only(error, retry_after),
        None => problem(error, &asked.trace, function),
    };
    response.headers_mut().insert(REASON_HEADER, HeaderValue::from_static(reason));
    if error.closes() {
        response.extensions_mut().insert(Closes);
    }
    response
}

/// As gRPC's clients read it: a status of 200, whatever went wrong, and no body.
fn trailers_only(error: &ProxyError, retry_after: Option<u32>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.headers_mut() = grpc::status(error.code(), &error.to_string(), retry_after);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn problem(error: &ProxyError, trace: &Trace, function: Option<String>) -> Response<Full<Bytes>> {
    let Verdict { status, reason, reached_pod, retry_after } = error.verdict();
    let problem = Problem {
        r#type: format!("urn:pilotlight:problem:{reason}"),
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail: error.to_string(),
        reason,
        reached_pod,
        trace_id: trace.id(),
        function,
    };
    // Strings, numbers and booleans always serialise.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A host and a target that were received as such are a valid value.
    if let ProxyError::HttpsOnly(to) = error
        && let Ok(to) = HeaderValue::from_str(to)
    {
        headers.insert(header::LOCATION, to);
    }
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::{super::trace::TraceIds, *};

    #[test]
    fn every_error_says_what_the_caller_needs() {
        let timeout = HoldError::Timeout { waited: Duration::from_secs(30), why: None };
        let trouble =
            HoldError::CannotStart { reason: "ErrImagePull".into(), message: "no such image".into() };
        let rows: &[(ProxyError, u16, &str, bool, Option<u32>)] = &[
            (ProxyError::BadRequest("no Host"), 400, "bad-request", false, None),
            (ProxyError::HttpsOnly("https://a/".into()), 308, "https-only", false, None),
            (ProxyError::Misdirected, 421, "misdirected-request", false, None),
            (Refusal::BareLf.into(), 400, "bad-request", false, None),
            (Refusal::TargetTooLong.into(), 414, "target-too-long", false, None),
            (Refusal::TooManyFields.into(), 431, "head-too-large", false, None),
            (
                ProxyError::NotFound { host: "h".into(), path: "/".into() },
                404,
                "no-such-function",
                false,
                None,
            ),
            (ProxyError::MemoryFull, 503, "activator-full", false, Some(1)),
            (HoldError::TooManyRequests.into(), 503, "hold-requests-exceeded", false, Some(1)),
            (HoldError::Overloaded.into(), 503, "overloaded", false, Some(1)),
            (timeout.into(), 504, "hold-timeout", false, Some(1)),
            (trouble.into(), 503, "cannot-start", false, Some(5)),
            (HoldError::Deleted.into(), 404, "function-deleted", false, None),
            (ProxyError::Connect("refused".into()), 502, "connect-failed", false, Some(1)),
            (ProxyError::Malformed("bad".into()), 502, "pod-malformed", true, None),
            (ProxyError::Broken("reset".into()), 502, "pod-broke-off", true, None),
            (ProxyError::SlowBody, 408, "slow-body", true, None),
            (ProxyError::FirstByte(Duration::from_secs(30)), 504, "first-byte-timeout", true, None),
            (ProxyError::Upgrade("unasked"), 502, "upgrade-failed", true, None),
            (ProxyError::UnknownProtocol, 501, "unknown-protocol", false, None),
            (ProxyError::NoTunnels, 501, "websocket-unsupported", false, None),
            (HoldError::Leaving.into(), 503, "activator-leaving", false, Some(1)),
        ];
        for &(ref error, status, reason, reached_pod, retry_after) in rows {
            let verdict = error.verdict();
            let told = (verdict.status.as_u16(), verdict.reason, verdict.reached_pod, verdict.retry_after);
            assert_eq!(told, (status, reason, reached_pod, retry_after), "{error}");
        }
    }

    #[test]
    fn a_grpc_client_reads_its_own_codes() {
        let timeout = HoldError::Timeout { waited: Duration::from_secs(30), why: None };
        let rows: [(ProxyError, &str, Option<&str>); 7] = [
            (ProxyError::NotFound { host: "h".into(), path: "/".into() }, "12", None),
            (HoldError::TooManyRequests.into(), "8", Some("1000")),
            (timeout.into(), "14", Some("1000")),
            (ProxyError::Deadline { reached_pod: false }, "4", None),
            (ProxyError::FirstByte(Duration::from_secs(30)), "4", None),
            (ProxyError::Broken("reset".into()), "14", None),
            (ProxyError::BadRequest("no Host"), "13", None),
        ];
        let trace = Trace::of(&http::HeaderMap::new(), &TraceIds::default());
        let asked = Asked { trace, call: Some(Call { deadline: None }) };
        for (error, code, pushback) in rows {
            let response = respond(&error, &asked, None);
            let headers = response.headers();
            assert_eq!((response.status().as_u16(), headers["grpc-status"].to_str().unwrap()), (200, code));
            let told = headers.get("grpc-retry-pushback-ms").map(|value| value.to_str().unwrap());
            assert_eq!(told, pushback, "{error}");
            assert_eq!(headers["pilotlight-reason"], error.verdict().reason);
        }
    }

    #[tokio::test]
    async fn the_answer_is_a_problem_document() {
        let error = HoldError::CannotStart { reason: "ErrImagePull".into(), message: "no such image".into() };
        let trace = Trace::of(&http::HeaderMap::new(), &TraceIds::default());
        let asked = Asked { trace, call: None };
        let response = respond(&error.into(), &asked, Some("demo/hello".into()));
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["retry-after"], "5");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["trace_id"], trace.id());
        assert_eq!(problem["detail"], "the function cannot start: ErrImagePull: no such image");
        assert_eq!(
            (problem["function"].as_str(), problem["reached_pod"].as_bool()),
            (Some("demo/hello"), Some(false))
        );
    }
}
