//! A body that comes on a stream.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body, Frame, SizeHint};

/// A body that comes on a stream. Whoever sends it may send more as it is taken.
#[derive(Debug)]
pub(in crate::proxy) struct Received {
    stream: RecvStream,
    /// What is still to come, if that was announced. h2 sees to it that no more comes, and no less.
    left: Option<u64>,
    /// Whether only trailers may still come.
    at_trailers: bool,
}

impl Received {
    /// The body of a message with these headers.
    pub(in crate::proxy) fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).map(HeaderValue::to_str);
        let left = length.and_then(|length| length.ok()?.parse().ok());
        Self { stream, left, at_trailers: false }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let data = ready!(self.stream.poll_data(cx)?);
        if let Some(data) = &data {
            // The stream may have been reset meanwhile: then nobody waits for the window.
            let _ = self.stream.flow_control().release_capacity(data.len());
            self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        }
        Poll::Ready(data.map(Ok))
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.at_trailers {
            if let Some(data) = ready!(self.poll_data(cx)?) {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.at_trailers = true;
        }
        let trailers = ready!(self.stream.poll_trailers(cx)?);
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
