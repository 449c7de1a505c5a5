//! One stream of HTTP/2: a request that is answered, and the response on its way to the client.
//!
//! A client that leaves a stream's window at zero keeps its response, and the slot that goes with it, while the
//! connection itself looks well. So each stream has a [pace](super::pace) of its own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Body;
use prometheus::IntCounter;
use tokio::sync::oneshot;

use super::{
    answers::Answers,
    date::date,
    pace::{Overdue, ReaderPace},
    rate::MinRate,
};
use crate::{
    memory::{ClientId, Memory},
    proxy::{
        http2::{Pings, Sending, TunnelStream},
        interim::Interim,
    },
};

/// What all connections and their streams have to keep to.
#[derive(Debug)]
pub(super) struct StreamLimits {
    /// How fast clients have to read.
    pub(super) rate: MinRate,
    /// Where what waits for them is kept.
    pub(super) memory: Arc<Memory>,
    /// Counts those that were ended because their client is too slow.
    pub(super) slow: IntCounter,
    /// And because their memory was needed.
    pub(super) evicted: IntCounter,
    /// How connections whose client has vanished are found.
    pub(super) pings: Pings,
}

/// One stream, from its request's head on.
pub(super) struct Stream<S: Answers> {
    pub(super) client: ClientId,
    pub(super) limits: Arc<StreamLimits>,
    pub(super) reply: SendResponse<Bytes>,
    /// What is said before the response.
    pub(super) interim: Arc<Interim>,
    pub(super) tunnel: Option<Opening>,
    pub(super) stage: Stage<S>,
}

/// How far it has come.
pub(super) enum Stage<S: Answers> {
    /// The request is being answered.
    Asked(S::Answer),
    /// The response's body is on its way.
    Answered(Sending<S::Body>, ReaderPace),
}

/// A tunnel that is asked for.
pub(super) struct Opening {
    pub(super) inward: RecvStream,
    /// Who gets it.
    pub(super) to: oneshot::Sender<TunnelStream>,
}

/// A stream ends by being dropped, which resets it unless all was said.
impl<S: Answers> Future for Stream<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // A panic ends one request, and not those beside it.
        catch_unwind(AssertUnwindSafe(|| self.poll_stages(cx))).unwrap_or_else(|_| {
            self.reply.send_reset(Reason::INTERNAL_ERROR);
            Poll::Ready(())
        })
    }
}

impl<S: Answers> Stream<S> {
    fn poll_stages(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Stage::Asked(answer) = &mut self.stage {
            let answered = Pin::new(answer).poll(cx);
            self.tell_interim();
            let Poll::Ready(response) = answered else {
                // The client may have given it up.
                return self.reply.poll_reset(cx).map(drop);
            };
            match self.begin(response) {
                Ok(Some(sending)) => {
                    let pace = ReaderPace::new(self.limits.rate, Arc::clone(&self.limits.memory));
                    self.stage = Stage::Answered(sending, pace);
                }
                Ok(None) => return Poll::Ready(()),
                Err(error) => {
                    tracing::debug!(%error, "a response cannot be sent");
                    self.reply.send_reset(error.reason().unwrap_or(Reason::INTERNAL_ERROR));
                    return Poll::Ready(());
                }
            }
        }
        let Stage::Answered(sending, pace) = &mut self.stage else { return Poll::Pending };
        if sending.poll(cx, |bytes| pace.moved(bytes)).is_ready() {
            return Poll::Ready(());
        }
        if !sending.waits_for_peer() {
            pace.stop();
            return Poll::Pending;
        }
        match ready!(pace.poll_overdue(self.client, cx)) {
            Overdue::Slow => self.limits.slow.inc(),
            Overdue::Evicted => self.limits.evicted.inc(),
        }
        Poll::Ready(())
    }

    /// Passes on what is said before the response.
    fn tell_interim(&mut self) {
        for (status, headers) in self.interim.take() {
            let mut response = Response::new(());
            (*response.status_mut(), *response.headers_mut()) = (status, headers);
            // Too late, if the client has reset the stream: nobody hears it.
            let _ = self.reply.send_informational(response);
        }
    }

    /// Sends the head of a response; its body, if there is one.
    fn begin(&mut self, response: Response<S::Body>) -> Result<Option<Sending<S::Body>>, h2::Error> {
        let (mut parts, body) = response.into_parts();
        let headers = &mut parts.headers;
        if !headers.contains_key(header::DATE)
            && let Some(date) = date()
        {
            headers.insert(header::DATE, date);
        }
        let opening = self.tunnel.take().filter(|_| parts.status.is_success());
        let ends = opening.is_none() && body.is_end_stream();
        if opening.is_none() && !ends {
            set_length(headers, &body);
        }
        let stream = self.reply.send_response(Response::from_parts(parts, ()), ends)?;
        if let Some(Opening { inward, to }) = opening {
            // If nobody takes it, it is reset.
            let _ = to.send(TunnelStream::new(stream, inward));
            return Ok(None);
        }
        Ok((!ends).then(|| Sending::new(body, stream)))
    }
}

/// Says how long a body is, if that is known.
fn set_length(headers: &mut HeaderMap, body: &impl Body) {
    if let Some(length) = body.size_hint().exact()
        && !headers.contains_key(header::CONTENT_LENGTH)
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}
