//! Which headers cross the proxy, and which are made by it.
//!
//! Headers that mean something between two hops stay on their hop (RFC 9110, section 7.6.1). Headers
//! that carry our meaning, or tell where a request came from, are removed from what a client sends: a
//! function may believe them.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
};
use pilotlight_crds::Protocol;

use super::origin::{FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, Peer};

/// Prefix of every header that carries our meaning.
const OURS: &str = "pilotlight-";
/// The session's id, for the function.
pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("pilotlight-session-id");
/// Milliseconds that a request was held, on its response.
pub(super) const HELD_MS: HeaderName = HeaderName::from_static("pilotlight-held-ms");
/// `true` on the response to a request that was held for a cold start.
pub(super) const COLD_START: HeaderName = HeaderName::from_static("pilotlight-cold-start");

/// Headers that tell where a request comes from.
const ORIGIN: [HeaderName; 4] = [header::FORWARDED, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO];

/// Headers that say how long a body is.
const FRAMING: [HeaderName; 2] = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
/// Headers by which a proxy in front overrules what servers and frameworks see of a request, without a standard.
const OVERRULING: [&str; 4] = ["x-real-ip", "x-forwarded-port", "x-original-url", "x-rewrite-url"];
/// CGI makes of it the variable by which many programs find their way out (CVE-2016-5385, "httpoxy").
const PROXY: &str = "proxy";

/// Headers that end at this hop, besides those that `Connection` names.
const HOP_BY_HOP: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// Where a request comes from.
#[derive(Debug)]
pub(super) struct Origin<'a> {
    /// Who sent it.
    pub(super) peer: &'a Peer,
    /// The host that it was sent to.
    pub(super) host: Option<&'a HeaderValue>,
    /// The version in which it was sent.
    pub(super) version: Version,
}

/// Makes a client's headers fit for a pod.
pub(super) fn to_pod(headers: &mut HeaderMap, origin: &Origin<'_>, protocol: Protocol) {
    let trusted = origin.peer.is_trusted();
    // Most requests have no such header, and one look at each takes less time than to remove all that may be there.
    let stays = |name: &HeaderName| {
        HOP_BY_HOP.contains(&name.as_str()) || *name == header::EXPECT || is_forged(name.as_str(), trusted)
    };
    if headers.keys().any(stays) {
        remove_what_stays(headers, trusted, protocol);
    }
    origin.peer.tell(headers, origin.host, origin.version);
}

fn remove_what_stays(headers: &mut HeaderMap, trusted: bool, protocol: Protocol) {
    // The only value of TE that may be passed on: whoever gets it says the same to the next hop.
    let trailers =
        headers.get_all(header::TE).iter().any(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove_hop_by_hop(headers);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if protocol == Protocol::Http1 {
            // Section 10.1.4: whoever sends TE names it here, so that it goes no further by itself.
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
    let forged: Vec<_> = headers.keys().filter(|name| is_forged(name.as_str(), trusted)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    // An expectation that can be met is passed on where the body is held back for it.
    headers.remove(header::EXPECT);
}

/// Whether a header is one that only we, or who is trusted, may send; or could pass for one that is not what
/// it seems: servers that hand headers on as variables (CGI, WSGI, PHP) cannot tell `_` from `-`.
fn is_forged(name: &str, trusted: bool) -> bool {
    // Most names begin otherwise.
    if matches!(name.as_bytes(), [b'p' | b'x', ..])
        && (name.starts_with(OURS) || name == PROXY || (!trusted && OVERRULING.contains(&name)))
    {
        return true;
    }
    name.contains('_') && {
        let name = name.replace('_', "-");
        let known = ORIGIN.iter().chain(&FRAMING).any(|known| known.as_str() == name);
        known || name.starts_with(OURS) || OVERRULING.contains(&name.as_str())
    }
}

/// Makes a pod's headers fit for a client.
pub(super) fn to_client(headers: &mut HeaderMap) {
    if headers.keys().any(|name| HOP_BY_HOP.contains(&name.as_str())) {
        remove_hop_by_hop(headers);
    }
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
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The protocol that both sides agree to switch to: `Upgrade` with `Connection: upgrade`. Not HTTP/2: RFC 9113
/// has done away with that way into it, and past us every request could go through it unseen.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(header::UPGRADE)?;
    let asks = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named =
        asks.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let is_http2 = |value: &&HeaderValue| {
        let value = value.as_bytes().to_ascii_lowercase();
        value.split(|byte| *byte == b',').any(|name| matches!(name.trim_ascii(), b"h2c" | b"h2"))
    };
    Some(protocol).filter(|_| named).filter(|value| !is_http2(value)).cloned()
}

#[cfg(test)]
mod tests {
    use pilotlight_crds::UrlScheme;

    use super::*;
    use crate::proxy::Caller;

    fn peer(trusted: &[crate::proxy::Cidr]) -> Peer {
        let caller = Caller::new("10.0.0.9".parse().unwrap(), UrlScheme::Https, None);
        Peer::new(caller, trusted)
    }

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
            ("pilotlight_session_id", "forged"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("x-rewrite-url", "/admin"),
            ("x_rewrite_url", "/admin"),
            ("proxy", "http://1.1.1.1"),
            ("content_length", "1"),
            ("transfer_encoding", "chunked"),
            ("x_other", "stays"),
            ("accept", "*/*"),
        ]);
        let peer = peer(&[]);
        let host = HeaderValue::from_static("a.com");
        let origin = Origin { peer: &peer, host: Some(&host), version: Version::HTTP_11 };
        to_pod(&mut sent, &origin, Protocol::Http1);
        let expected = headers(&[
            ("accept", "*/*"),
            ("x_other", "stays"),
            ("te", "trailers"),
            ("connection", "te"),
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.com"),
            ("forwarded", "for=10.0.0.9;host=\"a.com\";proto=https"),
            ("via", "1.1 pilotlight"),
        ]);
        assert_eq!(sent, expected);
    }

    #[test]
    fn who_is_trusted_may_overrule_and_not_speak_for_us() {
        let mut sent =
            headers(&[("x-real-ip", "1.1.1.1"), ("pilotlight-session-id", "forged"), ("proxy", "a")]);
        let ranges = ["10.0.0.0/8".parse().unwrap()];
        let peer = peer(&ranges);
        to_pod(&mut sent, &Origin { peer: &peer, host: None, version: Version::HTTP_11 }, Protocol::Http1);
        assert_eq!(sent.get("x-real-ip").unwrap(), "1.1.1.1");
        assert!(!sent.contains_key("pilotlight-session-id") && !sent.contains_key("proxy"));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(upgrade(&headers(&[("upgrade", "websocket")])).is_none());
        let both = headers(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")]);
        assert_eq!(upgrade(&both).unwrap(), "websocket");
        for protocol in ["h2c", "H2C", "websocket, h2c", "h2"] {
            assert_eq!(upgrade(&headers(&[("upgrade", protocol), ("connection", "upgrade")])), None);
        }
    }
}
