//! The cookie that names a session: read, made, and kept from the function.
//!
//! The function gets the id in the header `Pilotlight-Session-Id`, not in the cookie. Whoever has the cookie
//! is the caller, and functions log, echo and forward the cookies that they see: what a function never gets
//! it cannot give away by accident.

use aws_lc_rs::rand;
use axum::http::{HeaderMap, HeaderValue, header::COOKIE};
use pilotlight_crds::{FunctionKey, Keys, SessionCookie, SessionId};

/// More cookies of our name than this are not looked at: each costs a signature per secret.
const MAX_CANDIDATES: usize = 4;

/// The id of a new session: 128 random bits, signed. Nothing if the system has no randomness to give; the
/// request is then served without a session.
pub fn begin(keys: &Keys, function: &FunctionKey) -> Option<SessionId> {
    let mut random = [0; 16];
    rand::fill(&mut random).ok()?;
    Some(keys.session_id(function, random))
}

/// The session that the request's cookies name: the first cookie of the name that this installation signed
/// for `function`. A caller may send several (of other paths, of a parent domain, forged); none of the
/// others hides the right one.
pub fn read(
    headers: &HeaderMap,
    cookie: &SessionCookie,
    keys: &Keys,
    function: &FunctionKey,
) -> Option<SessionId> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| pairs(line.as_bytes()))
        .filter(|pair| name_of(pair) == cookie.name.as_bytes())
        .take(MAX_CANDIDATES)
        .find_map(|pair| keys.verify_session_id(function, std::str::from_utf8(value_of(pair)).ok()?))
}

/// The `Set-Cookie` value that gives `id` to the caller. It goes with every response of the session, not only
/// the first: `Max-Age` counts from the last response that carried it. Nothing if the cookie's name cannot
/// stand in a header, which the Function's validation rules out.
pub fn set_cookie(cookie: &SessionCookie, id: &SessionId, tls: bool) -> Option<HeaderValue> {
    let (name, id, age) = (&cookie.name, id.as_str(), cookie.ttl.get().as_secs());
    let secure = if tls { "; Secure" } else { "" };
    let text = format!("{name}={id}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}");
    let mut value = HeaderValue::try_from(text).ok()?;
    // Keeps it out of logs of headers, and out of HTTP/2's compression tables.
    value.set_sensitive(true);
    Some(value)
}

/// Takes the cookie `name` out of the headers that go to the function. Other cookies stay as they are.
pub fn strip(headers: &mut HeaderMap, name: &str) {
    let is_ours = |pair: &&[u8]| name_of(pair) == name.as_bytes();
    let lines = headers.get_all(COOKIE);
    if !lines.iter().any(|line| pairs(line.as_bytes()).any(|pair| is_ours(&pair))) {
        return;
    }
    let kept: Vec<HeaderValue> = lines
        .iter()
        .map(|line| pairs(line.as_bytes()).filter(|pair| !is_ours(pair)).collect::<Vec<_>>().join(&b"; "[..]))
        .filter(|line| !line.is_empty())
        .filter_map(|line| HeaderValue::from_bytes(&line).ok())
        .collect();
    headers.remove(COOKIE);
    for line in kept {
        headers.append(COOKIE, line);
    }
}

/// The `name=value` pairs of one `Cookie` header, read as generously as RFC 6265, section 5.4, lets clients
/// write them.
fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii()
}

fn value_of(pair: &[u8]) -> &[u8] {
    let value = pair.splitn(2, |byte| *byte == b'=').nth(1).unwrap_or_default().trim_ascii();
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::parse("a secret that has enough characters").unwrap()
    }

    fn hello() -> FunctionKey {
        FunctionKey::new("demo", "hello")
    }

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, HeaderValue::from_str(line).unwrap())).collect()
    }

    fn cookies(headers: &HeaderMap) -> Vec<&str> {
        headers.get_all(COOKIE).iter().map(|line| line.to_str().unwrap()).collect()
    }

    #[test]
    fn the_first_cookie_that_verifies_names_the_session() {
        let id = keys().session_id(&hello(), [1; 16]);
        let foreign = keys().session_id(&FunctionKey::new("demo", "cart"), [2; 16]);
        let (id_text, foreign) = (id.as_str(), foreign.as_str());
        for lines in [
            vec![format!("pilotlight-session={id_text}")],
            vec![format!("a=b; pilotlight-session={id_text}; c=d")],
            vec![format!("a=b;pilotlight-session={id_text};")],
            vec![format!("pilotlight-session = \"{id_text}\" ")],
            vec!["a=b".to_owned(), format!("pilotlight-session={id_text}")],
            vec![format!(
                "pilotlight-session=junk; pilotlight-session={foreign}; pilotlight-session={id_text}"
            )],
            vec![format!("pilotlight-session; pilotlight-session={id_text}")],
        ] {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let found = read(&headers(&lines), &SessionCookie::default(), &keys(), &hello());
            assert_eq!(found.as_ref(), Some(&id), "{lines:?}");
        }
    }

    #[test]
    fn nothing_else_names_a_session() {
        let id = keys().session_id(&hello(), [1; 16]);
        let foreign = keys().session_id(&FunctionKey::new("demo", "cart"), [2; 16]);
        let (id, foreign) = (id.as_str(), foreign.as_str());
        let flood = "pilotlight-session=junk; ".repeat(MAX_CANDIDATES);
        for line in [
            String::new(),
            ";;;".to_owned(),
            "pilotlight-session".to_owned(),
            "pilotlight-session=".to_owned(),
            format!("Pilotlight-Session={id}"),
            format!("x-pilotlight-session={id}"),
            format!("other={id}"),
            format!("pilotlight-session={foreign}"),
            format!("pilotlight-session={id}x"),
            format!("pilotlight-session=x={id}"),
            format!("{flood}pilotlight-session={id}"),
        ] {
            let found = read(&headers(&[&line]), &SessionCookie::default(), &keys(), &hello());
            assert_eq!(found, None, "{line}");
        }
        let mut bytes = HeaderMap::new();
        bytes.insert(COOKIE, HeaderValue::from_bytes(b"pilotlight-session=\xff\xfe").unwrap());
        assert_eq!(read(&bytes, &SessionCookie::default(), &keys(), &hello()), None);
    }

    #[test]
    fn a_cookie_is_for_the_whole_host_and_not_for_scripts() {
        let id = keys().session_id(&hello(), [1; 16]);
        let plain = set_cookie(&SessionCookie::default(), &id, false).unwrap();
        let expected =
            format!("pilotlight-session={}; Path=/; Max-Age=1800; HttpOnly; SameSite=Lax", id.as_str());
        assert_eq!(plain, expected.as_str());
        assert!(plain.is_sensitive());
        let tls = set_cookie(&SessionCookie::default(), &id, true).unwrap();
        assert_eq!(tls, format!("{expected}; Secure").as_str());
        let broken = SessionCookie { name: "a\nb".to_owned(), ..SessionCookie::default() };
        assert_eq!(set_cookie(&broken, &id, true), None);
    }

    #[test]
    fn the_function_gets_all_cookies_but_ours() {
        for (before, after) in [
            (vec!["s=1"], vec![]),
            (vec!["a=b; s=1; c=d"], vec!["a=b; c=d"]),
            (vec!["s=1; s=2;a=b"], vec!["a=b"]),
            (vec!["a=b", "s=1", "c=d; s=2"], vec!["a=b", "c=d"]),
            (vec!["s"], vec![]),
            (vec!["s2=1; xs=2; a=s=1"], vec!["s2=1; xs=2; a=s=1"]),
            (vec!["a=b;c=d"], vec!["a=b;c=d"]),
            (vec![], vec![]),
        ] {
            let mut headers = headers(&before);
            strip(&mut headers, "s");
            assert_eq!(cookies(&headers), after, "{before:?}");
        }
    }

    #[test]
    fn new_sessions_differ_and_verify() {
        let (one, two) = (begin(&keys(), &hello()).unwrap(), begin(&keys(), &hello()).unwrap());
        assert_ne!(one, two);
        assert_eq!(keys().verify_session_id(&hello(), one.as_str()), Some(one));
    }
}
