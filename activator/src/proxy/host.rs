//! The host that a request is for: one, and of a form that nobody could read in another way.

use std::borrow::Cow;

use http::{HeaderValue, Request, Version, header};

/// The one host that a request is for, if it names one.
///
/// # Errors
/// The rule that the request breaks.
pub(super) fn of<B>(request: &Request<B>) -> Result<Option<HeaderValue>, &'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err("a request has one Host header"),
        (host, None) => host,
    };
    let (version, authority) =
        (request.version(), request.uri().authority().map(|authority| authority.as_str()));
    let host = match (authority, host) {
        // RFC 9112, section 3.2: it must be there, whatever the target says.
        (_, None) if version == Version::HTTP_11 => return Err("an HTTP/1.1 request has a Host header"),
        (None, None) if version == Version::HTTP_2 => return Err("a request names its host"),
        // RFC 9113, section 8.3.1.
        (Some(authority), Some(host))
            if version == Version::HTTP_2 && !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) =>
        {
            return Err("the Host header names another host than :authority");
        }
        // RFC 9112, section 3.2.2: a target's own authority is what counts.
        (Some(authority), _) => {
            Some(HeaderValue::from_str(authority).map_err(|_| "the target's authority is malformed")?)
        }
        (None, host) => host.cloned(),
    };
    match &host {
        Some(host) if !well_formed(host.as_bytes()) => Err("the Host header is malformed"),
        _ => Ok(host),
    }
}

/// `uri-host [ ":" port ]` of RFC 3986, of which we take only what a name in DNS or an address has: no user
/// information, no percent encoding, no sub-delimiters such as the comma of two hosts in one.
pub(super) fn well_formed(host: &[u8]) -> bool {
    let (name, port) = split_port(host);
    let name_is_fine = match name {
        [b'[', inner @ .., b']'] => inner.iter().all(|c| c.is_ascii_hexdigit() || matches!(c, b':' | b'.')),
        name => name.iter().all(|c| c.is_ascii_alphanumeric() || b"-._~".contains(c)),
    };
    let port_is_fine = match port {
        [] => true,
        port => {
            std::str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))
        }
    };
    !name.is_empty() && name_is_fine && port_is_fine
}

fn split_port(host: &[u8]) -> (&[u8], &[u8]) {
    let after_bracket = host.iter().rposition(|c| *c == b']').map_or(0, |at| at + 1);
    match host[after_bracket..].iter().rposition(|c| *c == b':') {
        Some(colon) => (&host[..after_bracket + colon], &host[after_bracket + colon + 1..]),
        None => (host, &[]),
    }
}

/// The name in a host, in lower case and without port or final dot, as the route table has it.
pub(super) fn name(host: &HeaderValue) -> Cow<'_, str> {
    let (name, _) = split_port(host.as_bytes());
    // [`of`] has let only ASCII pass.
    let name = std::str::from_utf8(name).unwrap_or_default().trim_end_matches('.');
    match name.bytes().any(|c| c.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_host(lines: &[(&str, &str)], uri: &str, expected: Result<&str, ()>) {
        let mut request = Request::builder().uri(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let host = of(&request.body(()).unwrap());
        let name = host.as_ref().map(|host| name(host.as_ref().unwrap()).into_owned());
        assert_eq!(name.as_deref().map_err(|_| ()), expected);
    }

    #[test]
    fn hosts() {
        check_host(&[("host", "A.com:80")], "/", Ok("a.com"));
        check_host(&[("host", "a.com.")], "/", Ok("a.com"));
        check_host(&[("host", "[::1]:8080")], "/", Ok("[::1]"));
        check_host(&[("host", "x")], "http://b.com/", Ok("b.com"));
        check_host(&[], "/", Err(()));
        check_host(&[], "http://b.com/", Err(()));
        check_host(&[("host", "a.com"), ("host", "a.com")], "/", Err(()));
        for bad in [
            "a.com/x",
            "user@a.com",
            "a.com:80x",
            "a b",
            "[::1",
            "a.com:80:80",
            "a.com:99999",
            "a%2ecom",
            "a.com, b.com",
            "",
        ] {
            check_host(&[("host", bad)], "/", Err(()));
        }
    }
}
