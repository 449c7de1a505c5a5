//! Sessions: who a caller is across requests, and which pod he would best return to.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::Span;

/// Sessions of a Function. A session's id is made and signed by the activator, kept by the caller in a
/// cookie, and passed to the function in the header `Pilotlight-Session-Id`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The cookie that names the session.
    #[serde(default)]
    pub cookie: SessionCookie,
    /// Whether a session's requests prefer the pod that served it last.
    #[serde(default)]
    pub affinity: Affinity,
}

/// The cookie that names a session.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SessionCookie {
    /// Name of the cookie: a token of RFC 6265.
    #[serde(default = "default_cookie_name")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub name: String,
    /// How long a session lives after its last request.
    #[serde(default = "default_cookie_ttl")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('9600h')")
        .message("session.cookie.ttl must be between 1s and 9600h (400 days, the most that browsers keep)"))]
    pub ttl: Span,
}

/// Whether a session's requests prefer the pod that served it last.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// The pod that served the session last serves it again if it has a free slot; else another does.
    #[default]
    Preferred,
    /// Any pod serves any request. In YAML it needs quotes: kubectl reads a bare `off` as `false`.
    Off,
}

fn default_cookie_name() -> String {
    "pilotlight-session".to_owned()
}

const fn default_cookie_ttl() -> Span {
    Span::from_secs(30 * 60)
}

impl Default for SessionCookie {
    fn default() -> Self {
        Self { name: default_cookie_name(), ttl: default_cookie_ttl() }
    }
}
