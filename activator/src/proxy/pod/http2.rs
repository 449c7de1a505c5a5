//! A connection of HTTP/2 to a pod: many requests on one connection, which has a task of its own.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::{Request, Response};
use http_body::Body as _;

use super::connection::Unanswered;
use crate::proxy::{
    body::{Incoming, Progress, RequestBody},
    http2::{Pings, Received, Sending, TunnelStream},
    interim::Ear,
    tcp::Tcp,
};

/// Bytes that a pod may send ahead on one stream. On all of them together it may send any number: otherwise a few clients
/// that do not read would keep the window of everybody's connection shut.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// What is buffered of a request's body on its way to the pod.
const STREAM_BUFFER: usize = 64 * 1024;
/// The largest head of a response.
const MAX_HEAD: u32 = 64 * 1024;
/// The most streams of a connection whose pod has not said yet how many it takes. No pod says so odd a
/// number; should one, it is as if it had said nothing.
const UNSETTLED: usize = 97;
/// How often to look for a pod's first SETTINGS.
const ANNOUNCEMENT_EVERY: Duration = Duration::from_millis(1);

/// A connection of HTTP/2. A clone is the same connection.
#[derive(Clone, Debug)]
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    closed: Arc<AtomicBool>,
}

impl Http2 {
    /// Speaks HTTP/2 with a pod.
    ///
    /// # Errors
    /// When the connection breaks before it has begun.
    pub(super) async fn begin(stream: Tcp) -> Result<Self, h2::Error> {
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(UNSETTLED)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD)
            .max_send_buffer_size(STREAM_BUFFER);
        let (sender, mut connection) = builder.handshake(stream).await?;
        let closed = Arc::<AtomicBool>::default();
        let (peer, ends) = (connection.ping_pong(), Arc::clone(&closed));
        tokio::spawn(async move {
            // Its own errors reach whoever waits for a response; without one nobody misses it.
            match peer {
                Some(peer) => tokio::select! {
                    _ = connection => {}
                    () = Pings::TO_PODS.vanished(peer) => {}
                },
                None => drop(connection.await),
            }
            ends.store(true, Ordering::Release);
        });
        Ok(Self { sender, closed })
    }

    /// Whether the pod takes tunnels (RFC 8441, section 3), as soon as it has said so.
    pub(super) async fn takes_tunnels(&self) -> bool {
        loop {
            // Whatever the pod's first SETTINGS say, they change this number.
            let settled = self.sender.current_max_send_streams() != UNSETTLED;
            if self.sender.is_extended_connect_protocol_enabled() {
                return true;
            }
            if settled || self.is_closed() {
                return false;
            }
            // h2 tells what was announced, but not when.
            tokio::time::sleep(ANNOUNCEMENT_EVERY).await;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether it takes a request, as soon as there is room for a stream; not once the pod has said that it goes away.
    pub(super) async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| self.sender.poll_ready(cx)).await.is_ok()
    }

    /// Sends a request; the answer comes to whoever polls for it.
    ///
    /// # Errors
    /// Nothing was sent if the request comes back.
    pub(super) fn send(&mut self, request: Request<RequestBody>) -> Result<Exchange, Unanswered> {
        if let Poll::Ready(Err(error)) = self.sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            return Err(Unanswered::NotSent(Box::new(request), error.to_string()));
        }
        let (mut parts, body) = request.into_parts();
        let (ear, progress) = (parts.extensions.remove::<Ear>(), body.progress());
        let tunnel = parts.extensions.get::<h2::ext::Protocol>().is_some();
        let ends = !tunnel && body.is_end_stream();
        let (response, stream) = self.sender.send_request(Request::from_parts(parts, ()), ends)?;
        let (mut outward, mut sending) = (None, None);
        if tunnel {
            outward = Some(stream);
        } else if !ends {
            sending = Some(Sending::new(body, stream));
        }
        Ok(Exchange { response, sending, outward, ear, progress })
    }
}

/// A request under way. Dropped, it is cancelled.
pub(super) struct Exchange {
    response: ResponseFuture,
    /// What is still to be sent.
    sending: Option<Sending<RequestBody>>,
    /// A tunnel's direction to the pod.
    outward: Option<SendStream<Bytes>>,
    /// Who hears what the pod says before its response.
    ear: Option<Ear>,
    progress: Arc<Progress>,
}

impl Exchange {
    /// Sends the body, and waits for the head of the response.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, h2::Error>> {
        if let Some(sending) = &mut self.sending
            && sending.poll(cx, |_| ()).is_ready()
        {
            // If it has failed, so does the response, unless the pod wants no more of it.
            self.sending = None;
        }
        while let Poll::Ready(Some(interim)) = self.response.poll_informational(cx)? {
            if let Some(ear) = &self.ear {
                ear.hears(interim.status(), interim.headers());
            }
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx)?);
        Poll::Ready(Ok(response))
    }

    /// What there is beside the response's head: the body, or a tunnel. The rest of the request goes on by itself, for as
    /// long as somebody wants the response.
    pub(super) fn go_on(self, response: Response<RecvStream>) -> (Response<Incoming>, Option<TunnelStream>) {
        let Self { sending, outward, progress, .. } = self;
        if let Some(mut sending) = sending {
            tokio::spawn(poll_fn(move |cx| {
                if progress.is_abandoned(cx) {
                    return Poll::Ready(());
                }
                sending.poll(cx, |_| ()).map(drop)
            }));
        }
        let (parts, inward) = response.into_parts();
        match outward.filter(|_| parts.status.is_success()) {
            Some(outward) => {
                let tunnel = TunnelStream::new(outward, inward);
                (Response::from_parts(parts, Incoming::nothing()), Some(tunnel))
            }
            None => {
                let body = Received::new(inward, &parts.headers).into();
                (Response::from_parts(parts, body), None)
            }
        }
    }
}

impl From<h2::Error> for Unanswered {
    /// The pod may have seen the request, unless it says that it has not (RFC 9113, sections 6.8 and 8.7).
    fn from(error: h2::Error) -> Self {
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        match error.is_remote() && (refused || error.is_go_away()) {
            true => Self::Refused(error.to_string()),
            false => Self::Silent(error.to_string()),
        }
    }
}
