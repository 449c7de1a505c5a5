//! Rules of HTTP that hyper leaves to us: what is ambiguous is refused, before it is routed.

use std::borrow::Cow;

use http::{HeaderValue, Method, Request, Version, header};

/// Checks a request; the host that it was sent to, if it names one.
///
/// # Errors
/// The rule that the request breaks.
pub(super) fn check<B>(request: &Request<B>) -> Result<Option<HeaderValue>, &'static str> {
    if request.method() == Method::CONNECT {
        return Err("CONNECT is for proxies that open tunnels, which this one does not");
    }
    let headers = request.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
        // RFC 9112, section 6.3: such a request ought to be handled as an error.
        return Err("a request has Transfer-Encoding or Content-Length, not both");
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err("a request has one Host header"),
        (host, None) => host.cloned(),
    };
    // RFC 9112, section 3.2: a target's own authority is what counts, but Host must be there.
    let authority = request.uri().authority().map(|authority| authority.as_str());
    if host.is_none() && authority.is_none() && request.version() == Version::HTTP_11 {
        return Err("an HTTP/1.1 request has a Host header");
    }
    let host = match authority {
        Some(authority) => {
            Some(HeaderValue::from_str(authority).map_err(|_| "the target's authority is malformed")?)
        }
        None => host,
    };
    match &host {
        Some(host) if !well_formed(host.as_bytes()) => Err("the Host header is malformed"),
        _ => Ok(host),
    }
}

/// `uri-host [ ":" port ]` of RFC 3986, without user information.
fn well_formed(host: &[u8]) -> bool {
    let (name, port) = split_port(host);
    let name_is_fine = match name {
        [b'[', inner @ .., b']'] => inner.iter().all(|c| c.is_ascii_hexdigit() || matches!(c, b':' | b'.')),
        name => name.iter().all(|c| c.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(c)),
    };
    name_is_fine && port.iter().all(u8::is_ascii_digit)
}

fn split_port(host: &[u8]) -> (&[u8], &[u8]) {
    let after_bracket = host.iter().rposition(|c| *c == b']').map_or(0, |at| at + 1);
    match host[after_bracket..].iter().rposition(|c| *c == b':') {
        Some(colon) => (&host[..after_bracket + colon], &host[after_bracket + colon + 1..]),
        None => (host, &[]),
    }
}

/// The name in a host, in lower case and without port or final dot, as the route table has it.
pub(super) fn host_name(host: &HeaderValue) -> Cow<'_, str> {
    let (name, _) = split_port(host.as_bytes());
    // `check` has let only ASCII pass.
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
        let host = check(&request.body(()).unwrap());
        let name = host.as_ref().map(|host| host_name(host.as_ref().unwrap()).into_owned());
        assert_eq!(name.as_deref().map_err(|_| ()), expected);
    }

    #[test]
    fn hosts() {
        check_host(&[("host", "A.com:80")], "/", Ok("a.com"));
        check_host(&[("host", "a.com.")], "/", Ok("a.com"));
        check_host(&[("host", "[::1]:8080")], "/", Ok("[::1]"));
        check_host(&[("host", "x")], "http://b.com/", Ok("b.com"));
        check_host(&[], "/", Err(()));
        check_host(&[("host", "a.com"), ("host", "a.com")], "/", Err(()));
        for bad in ["a.com/x", "user@a.com", "a.com:80x", "a b", "[::1", "a.com:80:80"] {
            check_host(&[("host", bad)], "/", Err(()));
        }
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        let both = [("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "1")];
        check_host(&both, "/", Err(()));
    }
}
