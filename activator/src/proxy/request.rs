//! A client's request as a pod gets it.

use std::sync::Arc;

use http::{HeaderValue, Request, StatusCode, Uri, Version, header, uri::PathAndQuery};
use http_body::Body as _;
use hyper::body::Incoming;
use pilotlight_crds::Protocol;
use tokio_util::sync::CancellationToken;

use super::{
    Routed,
    body::RequestBody,
    expect, headers,
    interim::{self, Interim},
    rate::MinRate,
    respond::ProxyError,
};

/// Bytes of a held request's body that its connection may have buffered already.
const BUFFERED_BODY: u64 = 64 * 1024;

/// The request as a pod gets it: in the pod's protocol, with the headers that may cross.
pub(super) fn to_pod(
    request: Request<Incoming>,
    routed: &Routed<'_>,
    protocol: Protocol,
    rate: MinRate,
) -> Result<Request<RequestBody>, ProxyError> {
    let (mut parts, body) = request.into_parts();
    let version = parts.version;
    let path = forwarded_path(&parts.uri, routed.strip)?;
    let origin = headers::Origin { peer: routed.peer, host: routed.host.as_ref(), version: parts.version };
    let expects = protocol == Protocol::Http1 && expect::expects(&parts.headers, parts.version);
    headers::to_pod(&mut parts.headers, &origin, protocol);
    if body.is_end_stream() {
        parts.headers.remove(header::TRAILER);
    }
    routed.asked.trace.pass_on(&mut parts.headers);
    match protocol {
        Protocol::Http1 => {
            (parts.version, parts.uri) = (Version::HTTP_11, Uri::from(path));
            if let Some(host) = routed.host.clone() {
                parts.headers.insert(header::HOST, host);
            }
            // Unless it is told, hyper takes it that a GET has no body, and leaves it out.
            if body.size_hint().exact().is_none() {
                parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        Protocol::H2c => {
            parts.version = Version::HTTP_2;
            parts.headers.remove(header::HOST);
            parts.uri = absolute_form(routed.host.as_ref(), path)?;
        }
    }
    parts.extensions.clear();
    let mut body = RequestBody::new(body, rate);
    let mut asked = None;
    if expects && !body.is_end_stream() {
        let (gate, opens) = expect::pass_on(&mut parts.headers);
        body.keep_behind(gate);
        asked = Some(opens);
    }
    let mut request = Request::from_parts(parts, body);
    // Whoever speaks HTTP/1.0 knows no interim responses; for HTTP/2, hyper has no way to send them.
    let interim = (version == Version::HTTP_11).then(|| Arc::clone(&routed.peer.interim));
    if protocol == Protocol::Http1 && (interim.is_some() || asked.is_some()) {
        hear_interim(&mut request, interim, asked);
    }
    Ok(request)
}

/// Has hyper tell what the pod says before its response: where interim responses go, and what a request for the
/// body opens.
fn hear_interim(
    request: &mut Request<RequestBody>,
    interim: Option<Arc<Interim>>,
    asked: Option<CancellationToken>,
) {
    hyper::ext::on_informational(request, move |response| {
        let status = response.status();
        if let (StatusCode::CONTINUE, Some(asked)) = (status, &asked) {
            asked.cancel();
        }
        if let Some(interim) = interim.as_ref().filter(|_| interim::passes(status)) {
            interim.add(status, response.headers());
        }
    });
}

/// Path and query without the part that was only for us; otherwise byte for byte what was received.
pub(super) fn forwarded_path(uri: &Uri, strip: usize) -> Result<PathAndQuery, ProxyError> {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = whole.get(strip..).unwrap_or("/");
    let with_slash = if rest.starts_with('/') || rest == "*" { rest.to_owned() } else { format!("/{rest}") };
    PathAndQuery::try_from(with_slash).map_err(|_| ProxyError::BadRequest("the target is not a path"))
}

/// HTTP/2 has the host in the target.
fn absolute_form(host: Option<&HeaderValue>, path: PathAndQuery) -> Result<Uri, ProxyError> {
    let host = host.map_or(b"localhost".as_slice(), HeaderValue::as_bytes);
    let uri = Uri::builder().scheme("http").authority(host).path_and_query(path).build();
    uri.map_err(|_| ProxyError::BadRequest("the Host header is malformed"))
}

/// Bytes of a request that are in memory while it is held: its head, and what its connection buffers.
pub(super) fn in_memory(request: &Request<RequestBody>) -> u64 {
    let headers: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let body = match request.body().is_end_stream() {
        true => 0,
        false => request.body().size_hint().upper().unwrap_or(BUFFERED_BODY).min(BUFFERED_BODY),
    };
    headers as u64 + request.uri().path().len() as u64 + body
}
