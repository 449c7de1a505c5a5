//! Which headers cross the proxy, and which are made by it.
//!
//! Headers that mean something between two hops stay on their hop (RFC 9110, section 7.6.1). Headers
//! that carry our meaning, or tell where a request came from, are removed from what a client sends: a
//! function may believe them.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, Entry},
};
use pilotlight_crds::{Protocol, UrlScheme};

/// Prefix of every header that carries our meaning.
const OURS: &str = "pilotlight-";
/// The session's id, for the function.
pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("pilotlight-session-id");
/// Milliseconds that a request was held, on its response.
pub(super) const HELD_MS: HeaderName = HeaderName::from_static("pilotlight-held-ms");
/// `true` on the response to a request that was held for a cold start.
pub(super) const COLD_START: HeaderName = HeaderName::from_static("pilotlight-cold-start");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Headers that end at this hop, besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Where a request comes from.
#[derive(Debug)]
pub(super) struct Origin {
    /// Who sent it.
    pub(super) peer: IpAddr,
    /// The host that it was sent to.
    pub(super) host: Option<HeaderValue>,
    /// How it was sent.
    pub(super) scheme: UrlScheme,
}

/// Makes a client's headers fit for a pod.
pub(super) fn to_pod(headers: &mut HeaderMap, origin: Origin, protocol: Protocol) {
    let Origin { peer, host, scheme } = origin;
    // The only value of TE that may be passed on: whoever gets it says the same to the next hop.
    let trailers =
        headers.get_all(header::TE).iter().any(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove_hop_by_hop(headers);
    if trailers && protocol == Protocol::H2c {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let ours: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with(OURS)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    // We answer `Expect: 100-continue` ourselves, when the pod begins to take the body.
    headers.remove(header::EXPECT);
    headers.remove(header::FORWARDED);
    // An address is always a valid header value.
    if let Ok(peer) = HeaderValue::from_str(&peer.to_canonical().to_string()) {
        headers.insert(FORWARDED_FOR, peer);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme.as_str()));
    match host {
        Some(host) => headers.insert(FORWARDED_HOST, host),
        None => headers.remove(FORWARDED_HOST),
    };
}

/// Makes a pod's headers fit for a client.
pub(super) fn to_client(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if let Entry::Occupied(connection) = headers.entry(header::CONNECTION) {
        let named: Vec<HeaderName> = connection
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The protocol that both sides agree to switch to: `Upgrade` with `Connection: upgrade`.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named =
        asks.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| named).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn hop_by_hop_and_forged_headers_do_not_reach_a_pod() {
        let mut sent = headers(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("pilotlight-session-id", "forged"),
            ("x-forwarded-for", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("accept", "*/*"),
        ]);
        let origin = Origin {
            peer: "::ffff:10.0.0.9".parse().unwrap(),
            host: Some(HeaderValue::from_static("a.com")),
            scheme: UrlScheme::Https,
        };
        to_pod(&mut sent, origin, Protocol::Http1);
        let expected = headers(&[
            ("accept", "*/*"),
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.com"),
        ]);
        assert_eq!(sent, expected);
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(upgrade(&headers(&[("upgrade", "websocket")])).is_none());
        let both = headers(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")]);
        assert_eq!(upgrade(&both).unwrap(), "websocket");
    }
}
