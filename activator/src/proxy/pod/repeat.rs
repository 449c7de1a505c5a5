//! Whether a request that a pod may have seen can be sent again.
//!
//! Only if its method is idempotent (RFC 9110, section 9.2.2), its body is small and was sent to its end, and no
//! byte of a response has come; and only within the function's [budget](crate::function::RetryBudget).

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::proxy::body::RequestBody;

/// The longest body that is kept while a request waits for its response.
const KEPT_BODY: usize = 16 * 1024;

/// What is kept of a request so that it can be sent again.
#[derive(Debug)]
pub(in crate::proxy) struct Spare {
    method: Method,
    uri: Uri,
    version: Version,
    /// As a list: few are ever looked at again, and a map takes twice as long to copy and to drop.
    fields: Vec<(HeaderName, HeaderValue)>,
    body: Option<Arc<Kept>>,
}

/// What a pod has been sent of a body: nothing is copied, the pieces are shared.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Kept(Mutex<Pieces>);

#[derive(Debug, Default)]
struct Pieces {
    pieces: Vec<Bytes>,
    bytes: usize,
    whole: bool,
}

impl Kept {
    /// A piece has been sent, and perhaps it was the last. Trailers are not kept, nor is a body that has any.
    pub(in crate::proxy) fn note(&self, piece: Option<&Frame<Bytes>>, last: bool) {
        let mut kept = self.lock();
        let data = piece.map(|piece| piece.data_ref().cloned());
        let fits = match data {
            Some(None) => false,
            Some(Some(data)) => {
                kept.bytes = kept.bytes.saturating_add(data.len());
                kept.pieces.push(data);
                kept.bytes <= KEPT_BODY
            }
            None => true,
        };
        if !fits {
            *kept = Pieces { bytes: usize::MAX, ..Pieces::default() };
        }
        kept.whole = last && kept.bytes <= KEPT_BODY;
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a request's body comes from.
#[derive(Debug)]
pub(in crate::proxy) enum Supply {
    Nothing,
    Client(Incoming),
    /// What another pod has been sent before.
    Again(std::vec::IntoIter<Bytes>),
}

impl Supply {
    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Nothing => Poll::Ready(None),
            Self::Client(body) => Pin::new(body).poll_frame(cx),
            Self::Again(pieces) => Poll::Ready(pieces.next().map(|piece| Ok(Frame::data(piece)))),
        }
    }

    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Client(body) => body.is_end_stream(),
            Self::Again(pieces) => pieces.as_slice().is_empty(),
        }
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Client(body) => body.size_hint(),
            Self::Again(pieces) => {
                SizeHint::with_exact(pieces.as_slice().iter().map(|piece| piece.len() as u64).sum())
            }
        }
    }
}

/// Keeps what is needed to send a request again, if that is allowed at all. Costs a copy of the head.
pub(in crate::proxy) fn keep(request: &mut Request<RequestBody>) -> Option<Spare> {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    );
    let small = request.body().size_hint().upper().is_some_and(|bytes| bytes <= KEPT_BODY as u64);
    if !idempotent || !small {
        return None;
    }
    let body = (!request.body().is_end_stream()).then(Arc::<Kept>::default);
    if let Some(body) = &body {
        request.body_mut().keep_in(Arc::clone(body));
    }
    let mut fields = Vec::with_capacity(request.headers().len());
    fields.extend(request.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
    let (method, uri, version) = (request.method().clone(), request.uri().clone(), request.version());
    Some(Spare { method, uri, version, fields, body })
}

impl Spare {
    /// The request again; `None` if its body had not been sent to its end, for the rest of it is lost.
    pub(in crate::proxy) fn request(self) -> Option<Request<RequestBody>> {
        let body = match self.body {
            None => RequestBody::empty(),
            Some(kept) => {
                let kept = std::mem::take(&mut *kept.lock());
                kept.whole.then(|| RequestBody::again(kept.pieces))?
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: usize) -> Frame<Bytes> {
        Frame::data(Bytes::from(vec![0; bytes]))
    }

    #[test]
    fn only_small_whole_bodies_without_trailers_are_kept() {
        let trailers = || Frame::trailers(http::HeaderMap::new());
        let rows: [(&str, Vec<Frame<Bytes>>, bool); 5] = [
            ("two pieces", vec![data(1), data(KEPT_BODY - 1)], true),
            ("nothing", vec![], true),
            ("too long", vec![data(KEPT_BODY), data(1)], false),
            ("too long, then little", vec![data(KEPT_BODY + 1), data(1)], false),
            ("trailers", vec![data(1), trailers()], false),
        ];
        for (what, frames, whole) in rows {
            let kept = Kept::default();
            frames.iter().for_each(|frame| kept.note(Some(frame), false));
            assert!(!kept.lock().whole, "{what}: the end has not come");
            kept.note(None, true);
            assert_eq!(kept.lock().whole, whole, "{what}");
        }
    }
}
