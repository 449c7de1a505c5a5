//! Which function a request is for, and whether it may come as it does.

use std::{sync::Arc, time::Instant};

use http::{HeaderValue, Request, Version, uri::PathAndQuery};
use pilotlight_crds::UrlScheme;

use super::{
    Proxy,
    body::RequestBody,
    host,
    origin::Peer,
    respond::{Asked, ProxyError},
    strict,
};
use crate::function::FunctionState;

/// A request whose function is known.
pub(super) struct Routed<'a> {
    pub(super) function: Arc<FunctionState>,
    pub(super) host: Option<HeaderValue>,
    pub(super) peer: &'a Peer,
    /// How the client has come to us, or to a proxy in front that we trust.
    pub(super) scheme: UrlScheme,
    pub(super) asked: Asked,
    pub(super) strip: usize,
    pub(super) began: Instant,
}

impl Proxy {
    /// The function that a request is for, if it may be asked for in this way.
    ///
    /// # Errors
    /// The rule that the request breaks, or that nobody has its host and path.
    pub(super) fn route<'a>(
        &self,
        request: &Request<RequestBody>,
        peer: &'a Peer,
        asked: Asked,
        began: Instant,
    ) -> Result<Routed<'a>, ProxyError> {
        let host = strict::check(request)?;
        let path = request.uri().path();
        let name = host.as_ref().map(host::name).unwrap_or_default();
        let scheme = peer.scheme(request.headers());
        self.check_connection(request, peer, scheme, &name)?;
        let routes = self.routes.load();
        let found = routes.find(&name, path);
        let (function, strip) = match found {
            Some(routed) => (Arc::clone(routed.target), routed.strip),
            None => return Err(ProxyError::NotFound { host: name.into_owned(), path: path.to_owned() }),
        };
        Ok(Routed { function, host, peer, scheme, asked, strip, began })
    }

    /// Whether a request for this host may come on this connection.
    fn check_connection(
        &self,
        request: &Request<RequestBody>,
        peer: &Peer,
        scheme: UrlScheme,
        host: &str,
    ) -> Result<(), ProxyError> {
        if let Some(tls) = &peer.tls {
            return Ok(tls.check(request.version() == Version::HTTP_2, host)?);
        }
        let Some(redirect) = self.redirect.as_ref().filter(|_| scheme == UrlScheme::Http) else {
            return Ok(());
        };
        let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        redirect.location(host, target).map_or(Ok(()), |to| Err(ProxyError::HttpsOnly(to)))
    }
}
