//! What fuzzers run: each target takes any bytes, and panics if something does not hold that must. For
//! `fuzz/` only, behind the feature `fuzzing`.

use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};
use pilotlight_crds::{Bytes, Span};

use crate::tls::Certificate;
pub use crate::{
    peer::fuzzing::peers,
    proxy::fuzzing::{forwarding, frames, framing, grpc, guard, paths, websocket},
    session::fuzzing::sessions,
};

/// Whatever is in a Secret, it is a certificate with names or an error. The first byte says where the key begins,
/// in eighths.
pub fn certificates(bytes: &[u8]) {
    let Some((cut, rest)) = bytes.split_first() else { return };
    let (chain, key) = rest.split_at(rest.len() * usize::from(cut % 9) / 8);
    let text = |bytes: &[u8]| k8s_openapi::ByteString(bytes.to_vec());
    let data = [("tls.crt".to_owned(), text(chain)), ("tls.key".to_owned(), text(key))].into();
    if let Ok(certificate) = Certificate::read(&data) {
        assert!(certificate.names.iter().all(|name| !name.bytes().any(|byte| byte.is_ascii_uppercase())));
    }
}

/// Units read back as they are written.
pub fn units(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    round_trip::<Span>(text);
    round_trip::<Bytes>(text);
}

fn round_trip<T: FromStr + ToString + PartialEq + std::fmt::Debug>(text: &str) {
    let Ok(value) = text.parse::<T>() else { return };
    let again = value.to_string().parse::<T>().ok();
    assert_eq!(again.as_ref(), Some(&value), "{text:?}");
}

/// Headers, one `name: value` a line; lines that are none are left out.
pub(crate) fn headers(lines: &[u8]) -> HeaderMap {
    let pair = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.split(|byte| *byte == b'\n').filter_map(pair) {
        headers.append(name, value);
    }
    headers
}
