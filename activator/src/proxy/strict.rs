//! Rules of HTTP that hyper leaves to us: what is ambiguous is refused, before it is routed.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};

use super::{
    client::{LONGEST_METHOD, Refusal, broken_rule},
    host, path,
    respond::ProxyError,
};

/// Checks a request; the host that it was sent to, if it names one.
///
/// # Errors
/// The rule that the request breaks.
pub(super) fn check<B>(request: &Request<B>) -> Result<Option<HeaderValue>, ProxyError> {
    if request.uri().path() == "*" && request.method() != Method::OPTIONS {
        return Err(broken_rule(request.headers()).into());
    }
    // With a protocol it is no tunnel to a host, but how HTTP/2 asks for WebSocket (RFC 8441).
    if request.method() == Method::CONNECT && request.extensions().get::<h2::ext::Protocol>().is_none() {
        return Err(Refusal::Connect.into());
    }
    if request.method().as_str().len() > LONGEST_METHOD {
        return Err(Refusal::Method.into());
    }
    path::check(request.uri().path()).and_then(|()| host::of(request)).map_err(ProxyError::BadRequest)
}

/// Checks that a pod's answer says in one way how long it is (RFC 9112, section 6.3). hyper has chosen one already;
/// what another reader would choose shows that something is wrong with the pod, or that it is being used.
///
/// # Errors
/// What is ambiguous.
pub(super) fn check_answer(headers: &HeaderMap) -> Result<(), &'static str> {
    let coding =
        only(headers, header::TRANSFER_ENCODING).map_err(|()| "it has several Transfer-Encoding headers")?;
    let length =
        only(headers, header::CONTENT_LENGTH).map_err(|()| "it has several Content-Length headers")?;
    match (coding, length) {
        (Some(_), Some(_)) => Err("it has both Transfer-Encoding and Content-Length"),
        (Some(coding), None) if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Err("its transfer coding is not chunked")
        }
        (None, Some(length)) if !length.as_bytes().iter().all(u8::is_ascii_digit) => {
            Err("its Content-Length is no number")
        }
        _ => Ok(()),
    }
}

/// The only value of a header, if it has one.
fn only(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, ()> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    values.next().map_or(Ok(first), |_| Err(()))
}
