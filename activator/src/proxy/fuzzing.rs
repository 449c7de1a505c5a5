//! Fuzz targets of the path of a request.

use http::{HeaderValue, Uri, Version};
use pilotlight_crds::{FunctionKey, Protocol, UrlScheme};

use super::{
    Caller, headers, host,
    origin::Peer,
    path,
    request::forwarded_path,
    strict,
    trace::{Trace, TraceIds},
};
pub use super::{
    client::fuzzing::{frames, framing, guard},
    grpc::grpc,
    tunnel::fuzzing::websocket,
};
use crate::{
    fuzzing::headers as read_headers,
    index::{Claim, Domains, RouteTable},
};

/// A host and a target, a line each: what is routed is what is forwarded, and nobody could read it differently.
pub fn paths(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (host, target) = text.split_once('\n').unwrap_or(("x", text));
    let (Ok(host), Ok(uri)) = (HeaderValue::from_str(host), target.parse::<Uri>()) else { return };
    if !host::well_formed(host.as_bytes()) || path::check(uri.path()).is_err() {
        return;
    }
    let name = host::name(&host);
    assert!(name.bytes().all(|byte| !byte.is_ascii_uppercase() && byte != b'@' && byte != b'/'), "{name}");
    let resolved = ["%2e", "%2E"].iter().fold(uri.path().to_owned(), |path, dot| path.replace(dot, "."));
    let resolved =
        ["%2f", "%2F", "%5c", "%5C", "\\"].iter().fold(resolved, |path, slash| path.replace(slash, "/"));
    let resolved = ["%3b", "%3B"].iter().fold(resolved, |path, semicolon| path.replace(semicolon, ";"));
    let mut segments = resolved.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    assert!(segments.all(|segment| segment != "." && segment != ".."), "{resolved}");
    let table = routes();
    let Some(routed) = table.find(&name, uri.path()) else { return };
    let Ok(forwarded) = forwarded_path(&uri, routed.strip) else { return };
    let whole = uri.path_and_query().map_or("/", |whole| whole.as_str());
    let rest = &whole[routed.strip..];
    assert_eq!(forwarded.as_str().trim_start_matches('/'), rest.trim_start_matches('/'), "{whole}");
    assert!(forwarded.as_str().starts_with('/') || forwarded.as_str() == "*", "{forwarded}");
}

fn routes() -> RouteTable<u8> {
    let claim = |name: &str, host: &str, path: &str| Claim {
        key: FunctionKey::new("demo", name),
        created: None,
        routes: vec![(vec![host.to_owned()], path.to_owned())],
    };
    let claims = [
        (claim("a", "a.com", "/"), 1),
        (claim("b", "*.a.com", "/api"), 2),
        (claim("c", "a.com", "/api/v2"), 3),
    ];
    RouteTable::build(claims, &Domains { outside: "example.org".into(), cluster: "cluster.local".into() })
}

/// Headers, one a line: nothing that is only ours to say, or that ends at this hop, gets to a pod.
pub fn forwarding(bytes: &[u8]) {
    let mut headers = read_headers(bytes);
    let trace = Trace::of(&headers, &TraceIds::default());
    assert_eq!(trace.id().len(), 32);
    if let Some(protocol) = headers::upgrade(&headers) {
        assert!(!protocol.as_bytes().eq_ignore_ascii_case(b"h2c"));
    }
    let _ = strict::check_answer(&headers);
    let ip = std::net::Ipv4Addr::new(10, 0, 0, 9).into();
    let peer = Peer::new(Caller::new(ip, UrlScheme::Http, None), &[]);
    let host = HeaderValue::from_static("a.com");
    let origin = headers::Origin { peer: &peer, host: Some(&host), version: Version::HTTP_11 };
    headers::to_pod(&mut headers, &origin, Protocol::Http1);
    for (name, value) in &headers {
        let plain = name.as_str().replace('_', "-");
        assert!(!plain.starts_with("pilotlight-") && plain != "proxy" && plain != "x-real-ip", "{name}");
        // All that we say about the hop to the pod is that it may send trailers.
        let hop = match name.as_str() {
            "connection" => value == "te",
            "te" => value == "trailers",
            "upgrade" | "transfer-encoding" | "keep-alive" => false,
            _ => true,
        };
        assert!(hop, "{name}: {value:?}");
    }
    assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["10.0.0.9"]);
    behind_a_proxy(bytes);
}

/// What a trusted proxy says is kept; the last word on who has called is ours.
fn behind_a_proxy(bytes: &[u8]) {
    let mut headers = read_headers(bytes);
    let ip = std::net::Ipv4Addr::new(10, 0, 0, 9).into();
    let trusted = ["10.0.0.0/8".parse()].into_iter().flatten().collect::<Vec<_>>();
    let peer = Peer::new(Caller::new(ip, UrlScheme::Http, None), &trusted);
    peer.scheme(&headers);
    let origin = headers::Origin { peer: &peer, host: None, version: Version::HTTP_2 };
    headers::to_pod(&mut headers, &origin, Protocol::H2c);
    let last = headers.get_all("x-forwarded-for").iter().next_back().map(HeaderValue::as_bytes);
    assert!(last.is_some_and(|last| last.ends_with(b"10.0.0.9")), "{headers:?}");
}
