//! A body that goes out on a stream.

use std::{
    error::Error,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

/// A body that goes out on a stream, a piece at a time. Dropped before its end it resets the stream.
#[derive(Debug)]
pub(in crate::proxy) struct Sending<B> {
    body: B,
    stream: SendStream<Bytes>,
    next: Next,
}

#[derive(Debug)]
enum Next {
    /// The body is asked.
    Unknown,
    /// What it has said last, and whether nothing comes behind it: it waits for the stream's window.
    Piece(Bytes, bool),
}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin> Sending<B> {
    /// A body that goes out on this stream.
    pub(in crate::proxy) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, next: Next::Unknown }
    }

    /// Whether it is the peer that is waited for, to take what there is.
    pub(in crate::proxy) fn waits_for_peer(&self) -> bool {
        matches!(self.next, Next::Piece(..))
    }

    /// Sends what there is; ready at the end. `sent` is told of the bytes that were handed over.
    ///
    /// # Errors
    /// When the peer has reset the stream, or the body has failed: then the stream was reset, with the reason for that.
    pub(in crate::proxy) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut sent: impl FnMut(usize),
    ) -> Poll<Result<(), h2::Error>> {
        if let Poll::Ready(reason) = self.stream.poll_reset(cx)? {
            return Poll::Ready(Err(reason.into()));
        }
        loop {
            if let Next::Piece(..) = self.next {
                ready!(self.poll_window(cx)?);
                if let Next::Piece(piece, last) = mem::replace(&mut self.next, Next::Unknown) {
                    sent(piece.len());
                    self.stream.send_data(piece, last)?;
                    if last {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            if ready!(self.poll_body(cx)?) {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Asks the body what is next. `true`: that was its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, h2::Error>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => {
                self.stream.send_data(Bytes::new(), true)?;
                return Poll::Ready(Ok(true));
            }
            Some(Err(error)) => {
                let reason = reason_of(&*error.into());
                self.stream.send_reset(reason);
                return Poll::Ready(Err(reason.into()));
            }
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(piece) => {
                let last = self.body.is_end_stream();
                if piece.is_empty() {
                    // It needs no window.
                    self.stream.send_data(piece, last)?;
                    return Poll::Ready(Ok(last));
                }
                // One byte for now: a stream that waits keeps no more of the connection's window from the others. h2 asks
                // for the rest when the piece is handed over.
                self.stream.reserve_capacity(1);
                self.next = Next::Piece(piece, last);
                Poll::Ready(Ok(false))
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => {
                    self.stream.send_trailers(trailers)?;
                    Poll::Ready(Ok(true))
                }
                // There are no others.
                Err(_) => Poll::Ready(Ok(false)),
            },
        }
    }

    /// Ready when a piece may be handed over.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(capacity) => drop(capacity?),
                // It was reset, by us or by the peer.
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Why a stream is reset whose body has failed: for the same reason, if that came from a reset.
fn reason_of(error: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
