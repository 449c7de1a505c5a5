//! Sessions on the path of a request: read the cookie, prefer the pod, pass the id on, set the cookie.
//!
//! A function without sessions pays nothing for them, and never waits for Redis.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use pilotlight_crds::{Affinity, Keys, SessionCookie, UrlScheme};

use super::headers::SESSION_ID;
use crate::{
    function::FunctionConfig,
    session::{SessionRef, Store, cookie},
};

/// What sessions need: the installation's keys and, for affinity, Redis.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// Keys that sign session ids; without them there are no sessions.
    pub keys: Option<Arc<Keys>>,
    /// Where the pod of a session is kept.
    pub store: Option<Store>,
}

/// The session of one request, if it has one.
#[derive(Debug, Default)]
pub(super) struct Turn(Option<Named>);

#[derive(Debug)]
struct Named {
    session: SessionRef,
    cookie: SessionCookie,
    affinity: Affinity,
    /// Uid of the pod that served the session last.
    pod: Option<String>,
}

impl Sessions {
    /// Finds the session of a request, or begins one.
    pub(super) async fn begin(&self, config: &FunctionConfig, headers: &HeaderMap) -> Turn {
        let (Some(settings), Some(keys)) = (&config.session, &self.keys) else { return Turn::default() };
        let known = cookie::read(headers, &settings.cookie, keys, &config.key);
        let is_new = known.is_none();
        let Some(id) = known.or_else(|| cookie::begin(keys, &config.key)) else { return Turn::default() };
        let session = SessionRef::new(config.key.clone(), id);
        let pod = match &self.store {
            // Redis being away costs the affinity of this request, not the request.
            Some(store) if settings.affinity == Affinity::Preferred && !is_new => {
                // On the heap: every request's task would have room for what talks to Redis.
                Box::pin(store.pod(&session, settings.cookie.ttl.get())).await.unwrap_or_default()
            }
            _ => None,
        };
        Turn(Some(Named { session, cookie: settings.cookie.clone(), affinity: settings.affinity, pod }))
    }

    /// Gives the client its cookie, and remembers which pod has served the session.
    pub(super) fn end(&self, turn: Turn, pod: &str, scheme: UrlScheme, headers: &mut HeaderMap) {
        let Some(Named { session, cookie: settings, affinity, .. }) = turn.0 else { return };
        if let Some(cookie) = cookie::set_cookie(&settings, &session.id, scheme == UrlScheme::Https) {
            headers.append(header::SET_COOKIE, cookie);
        }
        let Some(store) = self.store.clone() else { return };
        let (pod, ttl) = (pod.to_owned(), settings.ttl.get());
        // The response does not wait for Redis; at worst the next request has no preference.
        tokio::spawn(async move {
            match affinity {
                Affinity::Preferred => store.tie(&session, &pod, ttl).await,
                Affinity::Off => store.touch(&session, ttl).await,
            }
        });
    }
}

impl Turn {
    /// Uid of the pod that the request would best go to.
    pub(super) fn pod(&self) -> Option<&str> {
        self.0.as_ref()?.pod.as_deref()
    }

    /// Gives the function the session's id, and keeps the cookie from it.
    pub(super) fn pass_on(&self, headers: &mut HeaderMap) {
        let Some(Named { session, cookie: settings, .. }) = &self.0 else { return };
        cookie::strip(headers, &settings.name);
        // Base64 and a dot: always a valid value.
        if let Ok(id) = HeaderValue::from_str(session.id.as_str()) {
            headers.insert(SESSION_ID, id);
        }
    }
}
