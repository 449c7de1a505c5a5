//! Fuzz target of what sessions read from a request: cookies and conditions.

use pilotlight_crds::{FunctionKey, Keys, SessionCookie, Span};

use super::{Condition, condition::has_already, cookie};
use crate::fuzzing::headers;

/// Cookies name a session only if we signed it, and none of ours is left for the function. What a condition says
/// is bounded.
pub fn sessions(bytes: &[u8]) {
    let mut headers = headers(bytes);
    let Ok(keys) = Keys::parse("a secret that has enough characters") else { return };
    let function = FunctionKey::new("demo", "hello");
    let name = "pilotlight-session".to_owned();
    let settings = SessionCookie { name: name.clone(), ttl: Span::from_secs(60) };
    if let Some(id) = cookie::read(&headers, &settings, &keys, &function) {
        assert_eq!(keys.verify_session_id(&function, id.as_str()), Some(id));
    }
    cookie::strip(&mut headers, &name);
    let left = headers.get_all("cookie").iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let names = left.map(|pair| pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii());
    assert!(names.into_iter().all(|known| known != name.as_bytes()), "{headers:?}");
    if let Ok(Condition::Matches(etags)) = Condition::of_write(&headers) {
        assert!(etags.iter().all(|etag| !etag.contains('"')), "{headers:?}");
    }
    has_already(&headers, "etag");
}
