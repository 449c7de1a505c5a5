//! A client's request as a pod gets it.

use std::sync::Arc;

use http::{HeaderValue, Request, Uri, Version, header, uri::PathAndQuery};
use http_body::Body as _;
use pilotlight_crds::Protocol;

use super::{
    body::RequestBody,
    client::MinRate,
    expect, headers,
    interim::{Ear, Interim},
    respond::ProxyError,
    route::Routed,
};

/// Bytes of a held request's body that its connection may have buffered already.
const BUFFERED_BODY: u64 = 64 * 1024;

/// Makes a request fit for a pod: in the pod's protocol, with the headers that may cross.
pub(super) fn to_pod(
    request: &mut Request<RequestBody>,
    routed: &Routed<'_>,
    protocol: Protocol,
    rate: MinRate,
) -> Result<(), ProxyError> {
    let version = request.version();
    let path = forwarded_path(request.uri(), routed.strip)?;
    let origin = headers::Origin { peer: routed.peer, host: routed.host.as_ref(), version };
    let expects = expect::expects(request.headers(), version);
    let (has_body, length) = (!request.body().is_end_stream(), request.body().size_hint().exact());
    let headers = request.headers_mut();
    headers::to_pod(headers, &origin, protocol);
    if !has_body {
        headers.remove(header::TRAILER);
    }
    routed.asked.trace.pass_on(headers);
    match protocol {
        Protocol::Http1 => {
            if headers.get(header::HOST) != routed.host.as_ref()
                && let Some(host) = routed.host.clone()
            {
                headers.insert(header::HOST, host);
            }
            // Unless it is told, hyper takes it that a GET has no body, and leaves it out.
            if length.is_none() {
                headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            (*request.version_mut(), *request.uri_mut()) = (Version::HTTP_11, Uri::from(path));
        }
        Protocol::H2c => {
            headers.remove(header::HOST);
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = absolute_form(routed.host.as_ref(), path)?;
        }
    }
    let stream = request.extensions_mut().remove::<Arc<Interim>>();
    request.extensions_mut().clear();
    request.body_mut().keep_to(rate);
    // Whoever speaks HTTP/1.0 knows no interim responses.
    let interim = match version {
        Version::HTTP_11 => Some(Arc::clone(&routed.peer.interim)),
        _ => stream.clone(),
    };
    let mut ear = Ear { interim, asked: None };
    if expects && has_body {
        let (gate, asked) = expect::pass_on(request.headers_mut(), stream);
        request.body_mut().keep_behind(gate);
        ear.asked = Some(asked);
    }
    if ear.interim.is_some() || ear.asked.is_some() {
        listen(request, protocol, ear);
    }
    Ok(())
}

/// Has whoever sends the request tell what the pod says before its response.
fn listen(request: &mut Request<RequestBody>, protocol: Protocol, ear: Ear) {
    match protocol {
        Protocol::Http1 => {
            hyper::ext::on_informational(request, move |said| ear.hears(said.status(), said.headers()));
        }
        Protocol::H2c => drop(request.extensions_mut().insert(ear)),
    }
}

/// Path and query without the part that was only for us; otherwise byte for byte what was received.
pub(super) fn forwarded_path(uri: &Uri, strip: usize) -> Result<PathAndQuery, ProxyError> {
    let target = uri.path_and_query();
    if let (0, Some(target)) = (strip, target)
        && target.as_str().starts_with('/')
    {
        return Ok(target.clone());
    }
    let whole = target.map_or("/", PathAndQuery::as_str);
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
