//! Requests to make something else of a connection: how a client asks, how a pod is asked, and how its
//! consent is told.
//!
//! WebSocket is translated where the two ends speak different versions of HTTP: `Upgrade` with a key that
//! is proven to have been read (RFC 6455, section 4), or an extended CONNECT that needs no proof (RFC
//! 8441). Other protocols pass from HTTP/1.1 to HTTP/1.1 only.

use aws_lc_rs::{digest, rand};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use pilotlight_crds::Protocol;

use super::{
    body::{Incoming, RequestBody},
    client::OpenRequest,
    headers,
    respond::ProxyError,
    tunnel::{ClientStream, Promised},
};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// RFC 6455, section 1.3: what is hashed together with the key.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a key, before base64.
const KEY: usize = 16;

/// What a client asked for.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// Its end of the connection, once it is upgraded.
    pub(super) client: Promised,
    /// Its stream, which is busy for as long as the tunnel is there.
    pub(super) stream: Option<OpenRequest>,
    asked: Asked,
    /// What the pod has to answer to the key that we made.
    proof: Option<HeaderValue>,
}

#[derive(Debug)]
enum Asked {
    /// HTTP/1.1: `Upgrade`, and the key if it is for WebSocket.
    Http1 { protocol: HeaderValue, key: Option<HeaderValue> },
    /// HTTP/2: extended CONNECT for WebSocket.
    Http2,
}

impl Upgrade {
    /// What a request asks for, if anything.
    ///
    /// # Errors
    /// When it asks by extended CONNECT for a protocol that we do not know.
    pub(super) fn of(request: &mut Request<RequestBody>) -> Result<Option<Self>, ProxyError> {
        let asked = match request.extensions().get::<h2::ext::Protocol>() {
            Some(protocol) if protocol.as_str() == "websocket" => Asked::Http2,
            Some(_) => return Err(ProxyError::UnknownProtocol),
            None => match headers::upgrade(request.headers()) {
                Some(protocol) if request.version() == Version::HTTP_11 => {
                    Asked::Http1 { protocol, key: request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() }
                }
                _ => return Ok(None),
            },
        };
        let stream = request.extensions_mut().remove();
        let client = request.extensions_mut().remove::<ClientStream>().and_then(|stream| stream.take());
        let client = client.unwrap_or_else(|| Promised::Http1(hyper::upgrade::on(request)));
        Ok(Some(Self { client, stream, asked, proof: None }))
    }

    /// Whether it is for WebSocket.
    pub(super) fn websocket(&self) -> bool {
        match &self.asked {
            Asked::Http1 { protocol, .. } => is_websocket(protocol),
            Asked::Http2 => true,
        }
    }

    /// Puts it into the request for a pod; `false` if the pod's protocol has no word for it.
    ///
    /// # Errors
    /// When a WebSocket handshake lacks what the translation needs.
    pub(super) fn ask(
        &mut self,
        request: &mut Request<RequestBody>,
        protocol: Protocol,
    ) -> Result<bool, ProxyError> {
        match (&self.asked, protocol) {
            (Asked::Http1 { protocol, .. }, Protocol::Http1) => {
                set_upgrade(request.headers_mut(), protocol.clone())
            }
            (Asked::Http2, Protocol::Http1) => {
                *request.method_mut() = Method::GET;
                let key = new_key()?;
                set_upgrade(request.headers_mut(), WEBSOCKET);
                self.proof = Some(accept(key.as_bytes()));
                request.headers_mut().insert(header::SEC_WEBSOCKET_KEY, key);
            }
            (Asked::Http1 { protocol, key }, Protocol::H2c) => {
                if !is_websocket(protocol) || request.method() != Method::GET {
                    return Ok(false);
                }
                if !key.as_ref().is_some_and(is_key) {
                    return Err(ProxyError::BadRequest(
                        "a WebSocket handshake has a key of 16 bytes, in base64",
                    ));
                }
                extended_connect(request);
            }
            (Asked::Http2, Protocol::H2c) => extended_connect(request),
        }
        Ok(true)
    }

    /// Whether the pod has consented; if so, its answer is made into what the client has to be told.
    ///
    /// # Errors
    /// When the answer is neither consent nor refusal.
    pub(super) fn settle(&self, response: &mut Response<Incoming>) -> Result<bool, ProxyError> {
        let consent = match response.version() {
            Version::HTTP_2 => response.status() == StatusCode::OK,
            _ => response.status() == StatusCode::SWITCHING_PROTOCOLS,
        };
        if !consent {
            // To a client that asked by CONNECT, success means that the tunnel is open.
            return match (&self.asked, response.status().is_success()) {
                (Asked::Http2, true) => {
                    Err(ProxyError::Upgrade("the pod took a WebSocket handshake for a request"))
                }
                _ => Ok(false),
            };
        }
        let proof = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if self.proof.is_some() && proof != self.proof.as_ref() {
            return Err(ProxyError::Upgrade("the pod's Sec-WebSocket-Accept does not fit the key"));
        }
        let switched = headers::upgrade(response.headers());
        headers::to_client(response.headers_mut());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        match &self.asked {
            Asked::Http1 { protocol, key } => {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                set_upgrade(response.headers_mut(), switched.unwrap_or_else(|| protocol.clone()));
                if let (Version::HTTP_2, Some(key)) = (response.version(), key) {
                    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept(key.as_bytes()));
                }
            }
            Asked::Http2 => {
                *response.status_mut() = StatusCode::OK;
                response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
            }
        }
        Ok(true)
    }
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

fn set_upgrade(headers: &mut http::HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
    // What `Connection` no longer names must not be there; no upgrade has trailers.
    headers.remove(header::TE);
}

fn extended_connect(request: &mut Request<RequestBody>) {
    *request.method_mut() = Method::CONNECT;
    request.headers_mut().remove(header::SEC_WEBSOCKET_KEY);
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
}

fn new_key() -> Result<HeaderValue, ProxyError> {
    let mut key = [0; KEY];
    rand::fill(&mut key).map_err(|_| ProxyError::Upgrade("the system has no random bytes"))?;
    HeaderValue::try_from(BASE64.encode(key)).map_err(|_| ProxyError::Upgrade("a key is no header value"))
}

fn is_key(key: &HeaderValue) -> bool {
    BASE64.decode(key.as_bytes()).is_ok_and(|key| key.len() == KEY)
}

/// RFC 6455, section 4.2.2: the proof that a key was read.
fn accept(key: &[u8]) -> HeaderValue {
    let mut sha1 = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key);
    sha1.update(ACCEPT_SUFFIX.as_bytes());
    // base64 is always a valid header value.
    HeaderValue::try_from(BASE64.encode(sha1.finish())).unwrap_or(WEBSOCKET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn keys_have_sixteen_bytes() {
        assert!(is_key(&HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==")));
        assert!(is_key(&new_key().unwrap()));
        for bad in ["", "dGhlIHNhbXBsZQ==", "not base64!", "dGhlIHNhbXBsZSBub25jZQ"] {
            assert!(!is_key(&HeaderValue::from_static(bad)), "{bad}");
        }
    }
}
