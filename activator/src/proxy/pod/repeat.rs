//! Whether a request that a pod may have seen can be sent again.
//!
//! Only if its method is idempotent (RFC 9110, section 9.2.2), its body is small and was sent to its end, and no
//! byte of a response has come; and only within the function's [budget](crate::function::RetryBudget).

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::Body as _;

use crate::proxy::body::{KEPT_BODY, Kept, RequestBody};

/// What is kept of a request so that it can be sent again.
#[derive(Debug)]
pub(super) struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    /// As a list: few are ever looked at again, and a map takes twice as long to copy and to drop.
    fields: Vec<(HeaderName, HeaderValue)>,
    body: Option<Arc<Kept>>,
    /// Whether it may be sent again although a pod may have acted on it.
    idempotent: bool,
}

/// Keeps what is needed to send a request again, if that is allowed at all. Costs a copy of the head.
///
/// One that is not idempotent can be sent again only if the pod says that it has not looked at it, which HTTP/1 has no way
/// to say.
pub(super) fn keep(request: &mut Request<RequestBody>) -> Option<Spare> {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    );
    // One of unknown length is kept until it turns out to be long.
    let small = request.body().size_hint().lower() <= KEPT_BODY as u64;
    if !small || !(idempotent || request.version() == Version::HTTP_2) {
        return None;
    }
    let body = (!request.body().is_end_stream()).then(Arc::<Kept>::default);
    if let Some(body) = &body {
        request.body_mut().keep_in(Arc::clone(body));
    }
    let mut fields = Vec::with_capacity(request.headers().len());
    fields.extend(request.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
    let (method, uri, version) = (request.method().clone(), request.uri().clone(), request.version());
    Some(Spare { method, uri, version, fields, body, idempotent })
}

impl Spare {
    /// Whether the request may be sent again although a pod may have acted on it.
    pub(super) fn idempotent(&self) -> bool {
        self.idempotent
    }

    /// The request again; `None` if its body had not been sent to its end, for the rest of it is lost.
    pub(super) fn request(self) -> Option<Request<RequestBody>> {
        let body = match self.body {
            None => RequestBody::empty(),
            Some(kept) => RequestBody::again(kept.take()?),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        // Not `extend`, which would keep one of several with the same name.
        for (name, value) in self.fields {
            request.headers_mut().append(name, value);
        }
        Some(request)
    }
}
