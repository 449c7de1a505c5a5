//! Where a request comes from, and how that is told: `X-Forwarded-*`, `Forwarded` (RFC 7239) and `Via`.
//!
//! What a client says of it is removed, unless the client is a proxy that the operator trusts, such as an
//! ingress: then what it says is kept and added to.

use std::{
    net::IpAddr,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{FORWARDED, VIA},
};
use pilotlight_crds::UrlScheme;
use tokio::sync::Mutex;

use super::interim::Interim;
use crate::tls::Handshake;

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A range of addresses, as in `10.0.0.0/8`; an address alone is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    prefix: u32,
}

/// A range of addresses is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no range of addresses: write it as 10.0.0.0/8 or 2001:db8::/32, with no bits set after the prefix"
)]
pub struct InvalidCidr(String);

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr(text.to_owned());
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix)),
            None => (text, None),
        };
        let base: IpAddr = base.trim().parse().map_err(|_| invalid())?;
        let (_, width) = bits(base);
        let prefix = prefix.map_or(Ok(width), |prefix| prefix.trim().parse()).map_err(|_| invalid())?;
        let range = Self { base, prefix };
        // A bit that no address of the range can have is more likely a slip than meant.
        (prefix <= width && range.masked(base) == bits(base).0).then_some(range).ok_or_else(invalid)
    }
}

impl Cidr {
    fn contains(&self, address: IpAddr) -> bool {
        self.base.is_ipv4() == address.is_ipv4() && self.masked(address) == bits(self.base).0
    }

    fn masked(&self, address: IpAddr) -> u128 {
        let (bits, width) = bits(address);
        let host = width.saturating_sub(self.prefix);
        bits & u128::MAX.checked_shl(host).unwrap_or(0)
    }
}

/// An address as a number, and how many bits it has.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

/// Who is at the other end of a connection, and how it was made.
#[derive(Debug)]
pub struct Caller {
    /// Its address.
    pub ip: IpAddr,
    /// The scheme by which it has reached us.
    pub scheme: UrlScheme,
    /// What its TLS handshake has agreed on, if it was with us.
    pub tls: Option<Handshake>,
    /// Where interim responses go.
    pub(super) interim: Arc<Interim>,
}

impl Caller {
    /// A client that has just connected.
    pub(super) fn new(ip: IpAddr, scheme: UrlScheme, tls: Option<Handshake>) -> Self {
        Self { ip, scheme, tls, interim: Arc::default() }
    }
}

/// A caller as requests are told of it. Made once for all of a connection.
#[derive(Debug)]
pub struct Peer {
    address: HeaderValue,
    /// The address as `Forwarded` has it.
    node: String,
    scheme: UrlScheme,
    trusted: bool,
    /// The host of the connection's first request, which is mostly that of all, and what `Forwarded` says for it.
    element: OnceLock<(Option<HeaderValue>, HeaderValue)>,
    /// What the TLS handshake has agreed on, if it was with us.
    pub(super) tls: Option<Handshake>,
    /// Where interim responses go.
    pub(super) interim: Arc<Interim>,
    /// Held by the request that waits for memory: of a connection it is one at a time.
    pub(super) patient: Mutex<()>,
}

impl Peer {
    /// Whoever has made a connection, and whether that is one of the proxies that are trusted.
    pub fn new(caller: Caller, trusted: &[Cidr]) -> Self {
        let Caller { ip, scheme, tls, interim } = caller;
        let address = ip.to_canonical();
        let node = match address {
            IpAddr::V4(address) => address.to_string(),
            // RFC 7239, section 6: in brackets, and so in quotes.
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let trusted = trusted.iter().any(|range| range.contains(address));
        // An address is always a valid value.
        let address =
            HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Self {
            address,
            node,
            scheme,
            trusted,
            element: OnceLock::new(),
            tls,
            interim,
            patient: Mutex::default(),
        }
    }

    /// How the client has come: to us, or to the trusted proxy that it is.
    pub(super) fn scheme(&self, headers: &HeaderMap) -> UrlScheme {
        let told = if self.trusted { headers.get(FORWARDED_PROTO) } else { None };
        match told.map(HeaderValue::as_bytes) {
            Some(proto) if proto.eq_ignore_ascii_case(b"https") => UrlScheme::Https,
            Some(_) => UrlScheme::Http,
            None => self.scheme,
        }
    }

    /// Whether it is a proxy of the operator's, which may say where its requests come from.
    pub(super) const fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Tells a pod where a request comes from.
    pub(super) fn tell(&self, headers: &mut HeaderMap, host: Option<&HeaderValue>, version: Version) {
        let element = self.element_for(host);
        if self.trusted {
            add_to_list(headers, &FORWARDED_FOR, self.address.clone());
            add_to_list(headers, &FORWARDED, element);
            headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static(self.scheme.as_str()));
            if let Some(host) = host {
                headers.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
            }
        } else {
            headers.insert(FORWARDED_FOR, self.address.clone());
            headers.insert(FORWARDED, element);
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static(self.scheme.as_str()));
            match host {
                Some(host) => headers.insert(FORWARDED_HOST, host.clone()),
                None => headers.remove(FORWARDED_HOST),
            };
        }
        // RFC 9110, section 7.6.3: a gateway must say so in requests. In responses it need not, and does not.
        headers.append(VIA, via(version));
    }

    fn element_for(&self, host: Option<&HeaderValue>) -> HeaderValue {
        let (known, element) = self.element.get_or_init(|| {
            // A copy: the value itself would keep all that was read with it in memory.
            let copy = host.and_then(|host| HeaderValue::from_bytes(host.as_bytes()).ok());
            (copy, self.forwarded_element(host))
        });
        if known.as_ref() == host { element.clone() } else { self.forwarded_element(host) }
    }

    /// `for=…;host="…";proto=…`.
    fn forwarded_element(&self, host: Option<&HeaderValue>) -> HeaderValue {
        let host = host.map(HeaderValue::as_bytes);
        let proto = self.scheme.as_str().as_bytes();
        let mut element = Vec::with_capacity(32 + self.node.len() + host.map_or(0, <[u8]>::len));
        element.extend_from_slice(b"for=");
        element.extend_from_slice(self.node.as_bytes());
        if let Some(host) = host {
            // In quotes for the sake of its colon; a host that was let in has none itself.
            element.extend_from_slice(b";host=\"");
            element.extend_from_slice(host);
            element.push(b'"');
        }
        element.extend_from_slice(b";proto=");
        element.extend_from_slice(proto);
        // Made of valid values.
        HeaderValue::from_maybe_shared(Bytes::from(element))
            .unwrap_or(HeaderValue::from_static("for=unknown"))
    }
}

/// Adds to a list; as one line, since not every server reads more than the first.
fn add_to_list(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
    let mut list = Vec::new();
    for known in headers.get_all(name) {
        list.extend_from_slice(known.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(value.as_bytes());
    headers.insert(name, HeaderValue::from_maybe_shared(Bytes::from(list)).unwrap_or(value));
}

fn via(received: Version) -> HeaderValue {
    HeaderValue::from_static(match received {
        Version::HTTP_10 => "1.0 pilotlight",
        Version::HTTP_2 => "2.0 pilotlight",
        _ => "1.1 pilotlight",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer_of(ip: &str, trusted: &[Cidr]) -> Peer {
        Peer::new(Caller::new(ip.parse().unwrap(), UrlScheme::Http, None), trusted)
    }

    fn told(peer: &str, trusted: &[&str], sent: &[(&'static str, &'static str)]) -> Vec<String> {
        let trusted: Vec<Cidr> = trusted.iter().map(|range| range.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let host = HeaderValue::from_static("a.com:80");
        peer_of(peer, &trusted).tell(&mut headers, Some(&host), Version::HTTP_11);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_client_is_not_believed() {
        let forged = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "bank.com"),
            ("forwarded", "for=1.1.1.1"),
        ];
        let expected = [
            "forwarded: for=10.0.0.9;host=\"a.com:80\";proto=http",
            "via: 1.1 pilotlight",
            "x-forwarded-for: 10.0.0.9",
            "x-forwarded-host: a.com:80",
            "x-forwarded-proto: http",
        ];
        assert_eq!(told("::ffff:10.0.0.9", &[], &forged), expected);
        assert_eq!(told("10.0.0.9", &["10.0.1.0/24", "::/0"], &forged), expected);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_added_to() {
        let sent = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "b.com"),
            ("forwarded", "for=1.1.1.1"),
            ("via", "1.1 ingress"),
        ];
        let expected = [
            "forwarded: for=1.1.1.1, for=\"[2001:db8::9]\";host=\"a.com:80\";proto=http",
            "via: 1.1 ingress",
            "via: 1.1 pilotlight",
            "x-forwarded-for: 1.1.1.1, 2.2.2.2, 2001:db8::9",
            "x-forwarded-host: b.com",
            "x-forwarded-proto: https",
        ];
        assert_eq!(told("2001:db8::9", &["10.0.0.0/8", "2001:db8::/32"], &sent), expected);
    }

    #[test]
    fn each_request_has_its_own_host() {
        let peer = peer_of("10.0.0.9", &[]);
        let node = "for=10.0.0.9";
        for host in [Some("a.com"), Some("b.com"), None, Some("a.com")] {
            let value = host.map(HeaderValue::from_static);
            let host = host.map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
            assert_eq!(peer.element_for(value.as_ref()), format!("{node}{host};proto=http"));
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_how_the_client_came() {
        let trusted = ["10.0.0.1".parse().unwrap()];
        let mut headers = HeaderMap::new();
        assert_eq!(peer_of("10.0.0.1", &trusted).scheme(&headers), UrlScheme::Http);
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
        assert_eq!(peer_of("10.0.0.1", &trusted).scheme(&headers), UrlScheme::Https);
        assert_eq!(peer_of("10.0.0.2", &trusted).scheme(&headers), UrlScheme::Http);
    }

    #[test]
    fn ranges() {
        let rows = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/33", "2001:db8:8000::", false),
        ];
        for (range, address, expected) in rows {
            let contains = range.parse::<Cidr>().unwrap().contains(address.parse().unwrap());
            assert_eq!(contains, expected, "{range} {address}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/-1", "10.0.0.0/", "ten", "::/129"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
