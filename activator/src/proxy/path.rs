//! Which paths are refused. A path is routed and forwarded as it was received, byte for byte; so what another
//! server may read as a different path than we do is not let in.

use memchr::{memchr_iter, memchr2};

/// Checks a request's path, without its query.
///
/// # Errors
/// The rule that the path breaks.
pub(super) fn check(path: &str) -> Result<(), &'static str> {
    let path = path.as_bytes();
    if memchr2(b'.', b'%', path).is_none() {
        return Ok(());
    }
    for at in memchr_iter(b'%', path) {
        match path.get(at + 1..at + 3) {
            Some(b"00") => return Err("the path has an escaped NUL"),
            Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {}
            _ => return Err("a % in the path is followed by two hexadecimal digits"),
        }
    }
    match has_dot_segment(path) {
        true => Err("the path has a segment that is `.` or `..`: a client resolves those itself"),
        false => Ok(()),
    }
}

/// Whether a segment is `.` or `..` to any server that we know of: escaped (RFC 3986, section 6.2.2.2),
/// with parameters behind a semicolon, or between backslashes or escaped slashes.
fn has_dot_segment(mut path: &[u8]) -> bool {
    // The dots of which the segment has consisted so far; `None`: of other things as well.
    let mut dots = Some(0);
    while let Some((byte, rest)) = read(path) {
        dots = match (byte, dots) {
            (b'/' | b'\\' | b';', Some(1 | 2)) => return true,
            (b'/' | b'\\', _) => Some(0),
            (b'.', Some(dots)) => Some(dots + 1),
            _ => None,
        };
        path = rest;
    }
    matches!(dots, Some(1 | 2))
}

/// The first byte, read as a server does that resolves escaped dots and slashes; and what follows it.
fn read(path: &[u8]) -> Option<(u8, &[u8])> {
    match path {
        [b'%', b'2', b'e' | b'E', rest @ ..] => Some((b'.', rest)),
        [b'%', b'2', b'f' | b'F', rest @ ..] => Some((b'/', rest)),
        [b'%', b'5', b'c' | b'C', rest @ ..] => Some((b'\\', rest)),
        [b'%', b'3', b'b' | b'B', rest @ ..] => Some((b';', rest)),
        [byte, rest @ ..] => Some((*byte, rest)),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_read_differently_is_refused() {
        for path in [
            "/..",
            "/.",
            "/a/../b",
            "/a/./b",
            "/../",
            "/%2e%2E/x",
            "/.%2e",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/..%3Bx",
            "/a\\..\\b",
            "/a/..%2fb",
            "/a%2F..%5Cb",
            "/a/%2e",
            "/%",
            "/%2",
            "/%zz",
            "/a%00b",
            "/%2e;",
        ] {
            assert!(check(path).is_err(), "{path}");
        }
    }

    #[test]
    fn the_rest_is_not() {
        for path in [
            "/",
            "*",
            "/a/b",
            "//",
            "/a//b",
            "/...",
            "/.well-known",
            "/a..",
            "/..a",
            "/a.b/c",
            "/a%2Fb",
            "/%61",
            "/%252e%252e",
            "/package.Service/Method",
            "/;a",
            "/a;..",
            "/@scope%2fname",
            "/\"{}|^",
        ] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
    }
}
