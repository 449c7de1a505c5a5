//! Where a request's body comes from, and where it is kept in case it has to be sent again.

use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::incoming::{Incoming, IncomingError};

/// The longest body that is kept while a request waits for its response.
pub(in crate::proxy) const KEPT_BODY: usize = 16 * 1024;

/// Where a request's body comes from.
#[derive(Debug)]
pub(super) enum Supply {
    Nothing,
    Client(Incoming),
    /// What another pod has been sent before.
    Again(std::vec::IntoIter<Bytes>),
}

impl Supply {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        match self {
            Self::Nothing => Poll::Ready(None),
            Self::Client(body) => Pin::new(body).poll_frame(cx),
            Self::Again(pieces) => Poll::Ready(pieces.next().map(|piece| Ok(Frame::data(piece)))),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Client(body) => body.is_end_stream(),
            Self::Again(pieces) => pieces.as_slice().is_empty(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Client(body) => body.size_hint(),
            Self::Again(pieces) => {
                SizeHint::with_exact(pieces.as_slice().iter().map(|piece| piece.len() as u64).sum())
            }
        }
    }
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
    pub(super) fn note(&self, piece: Option<&Frame<Bytes>>, last: bool) {
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

    /// All that has been sent, if that was all there is.
    pub(in crate::proxy) fn take(&self) -> Option<Vec<Bytes>> {
        let kept = std::mem::take(&mut *self.lock());
        kept.whole.then_some(kept.pieces)
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
