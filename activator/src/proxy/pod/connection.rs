//! A connection to a pod, and who drives it.
//!
//! A connection of HTTP/1 carries one request at a time, so whoever waits for what comes on it drives it, in his own
//! task: a task for each connection would mean, for each request, to wake it, to be woken by it, and to hand
//! everything over between the two, often from one core to another. It gets a task only where the request goes on
//! by itself beside the response. One of HTTP/2 has many who wait, and a task of its own.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Instant,
};

use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::{
    body::Bytes,
    client::conn::{TrySendError, http1},
};
use pilotlight_crds::Protocol;
use tokio_util::task::AbortOnDropHandle;

use super::http2::Http2;
use crate::proxy::{
    body::{Incoming, IncomingError, RequestBody},
    clock::Clock,
    http2::TunnelStream,
    tunnel::Promised,
};

/// Why there is no answer to a request.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// It was not sent.
    NotSent(Box<Request<RequestBody>>, String),
    /// It was sent, and the pod says that it has not looked at it.
    Refused(String),
    /// It was sent, and the answer makes no sense.
    Malformed(String),
    /// It was sent, and there is none.
    Silent(String),
}

impl From<TrySendError<Request<RequestBody>>> for Unanswered {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let (unsent, why) = (error.take_message(), error.error());
        match unsent {
            Some(request) => Self::NotSent(Box::new(request), why.to_string()),
            None if why.is_parse() => Self::Malformed(why.to_string()),
            None => Self::Silent(why.to_string()),
        }
    }
}

/// A connection to a pod.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: Sender,
    /// `None`: it has a task of its own, or has ended.
    driver: Option<Driver>,
    /// One that somebody drove at first, and that now drives itself [`Until::Dropped`].
    task: Option<AbortOnDropHandle<()>>,
    /// HTTP/2: the tunnel that was asked for, once the pod has agreed.
    tunnel: Option<Box<TunnelStream>>,
    /// For whoever uses it now.
    clock: Clock,
}

/// Where requests go in.
#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    /// A clone is the same connection.
    Http2(Http2),
}

/// Reads and writes while it is polled.
struct Driver(Pin<Box<dyn Future<Output = ()> + Send>>);

/// How long a connection drives itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Until this [`Connection`] is dropped. The task may wait for a pod that reads nothing: it would not hear that
    /// nobody wants the rest any longer.
    Dropped,
    /// Until one of its two ends closes it: after an upgrade others have it.
    Closed,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

impl Connection {
    /// One that whoever uses it drives.
    pub(super) fn http1(
        sender: http1::SendRequest<RequestBody>,
        driver: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { driver: Some(Driver(Box::pin(driver))), ..Self::of(Sender::Http1(sender)) }
    }

    /// One that has a task.
    pub(super) fn http2(sender: Http2) -> Self {
        Self::of(Sender::Http2(sender))
    }

    fn of(sender: Sender) -> Self {
        Self { sender, driver: None, task: None, tunnel: None, clock: Clock::default() }
    }

    /// The same connection once more, if it carries several requests.
    pub(super) fn shared(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self::http2(sender.clone())),
        }
    }

    /// Whether it can carry several requests.
    pub(in crate::proxy) fn is_shared(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    pub(super) fn speaks(&self, protocol: Protocol) -> bool {
        self.is_shared() == (protocol == Protocol::H2c)
    }

    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Whether it takes a request. If it has been closed since it was last driven, the request comes back unsent:
    /// hyper reads before it writes.
    pub(super) async fn is_ready(&mut self) -> bool {
        if let Sender::Http1(sender) = &self.sender
            && sender.is_ready()
        {
            return true;
        }
        // Nobody waits yet: a waker would only be woken by the request that is sent next.
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        match &mut self.sender {
            // What its last user has left of the last response would stand before the next one.
            Sender::Http1(sender) if self.driver.is_some() => sender.is_ready(),
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.is_ready().await,
        }
    }

    /// Sends a request and waits for the head of its response. `None`: it was overdue first.
    pub(super) async fn send(
        &mut self,
        request: Box<Request<RequestBody>>,
        deadline: impl Fn() -> Instant,
    ) -> Option<Result<Response<Incoming>, Unanswered>> {
        let Self { sender, driver, tunnel, clock, .. } = self;
        match sender {
            Sender::Http1(sender) => send_http1(sender, driver, clock, request, deadline).await,
            // On the heap: most pods speak HTTP/1, and every request's future would have room for it.
            Sender::Http2(sender) => Box::pin(send_http2(sender, tunnel, clock, request, deadline)).await,
        }
    }

    /// The tunnel that the pod has agreed to with this response.
    pub(super) fn tunnel(&mut self, response: &mut Response<Incoming>) -> Promised {
        match self.tunnel.take() {
            Some(stream) => Promised::Kept(*stream),
            None => Promised::Http1(hyper::upgrade::on(response)),
        }
    }

    /// The next piece of a response's body.
    pub(in crate::proxy) fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        poll_through(&mut self.driver, cx, |cx| Pin::new(&mut *body).poll_frame(cx))
    }

    /// Ready at the deadline, or after.
    pub(in crate::proxy) fn poll_overdue(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.clock.poll(deadline, cx)
    }

    /// Gives it a task: nobody need poll for it any longer.
    pub(super) fn drive_itself(&mut self, until: Until) {
        let Some(Driver(driver)) = self.driver.take() else { return };
        let task = tokio::spawn(driver);
        if until == Until::Dropped {
            self.task = Some(AbortOnDropHandle::new(task));
        }
    }
}

/// Whoever waits drives the connection.
async fn send_http1(
    sender: &mut http1::SendRequest<RequestBody>,
    driver: &mut Option<Driver>,
    clock: &mut Clock,
    request: Box<Request<RequestBody>>,
    deadline: impl Fn() -> Instant,
) -> Option<Result<Response<Incoming>, Unanswered>> {
    let mut answer = pin!(sender.try_send_request(*request));
    let mut sent = false;
    let answered = poll_fn(|cx| {
        let mut poll = |cx: &mut Context<'_>| answer.as_mut().poll(cx);
        let answered = match std::mem::replace(&mut sent, true) {
            // There can be no answer before it is driven.
            false => drive_and(driver, cx, &mut poll),
            true => poll_through(driver, cx, poll),
        };
        match answered {
            Poll::Ready(answered) => Poll::Ready(Some(answered)),
            Poll::Pending => clock.poll(deadline(), cx).map(|()| None),
        }
    });
    Some(answered.await?.map(|response| response.map(Incoming::from)).map_err(Unanswered::from))
}

/// The connection has a task. What has opened is put where the connection keeps it.
async fn send_http2(
    sender: &mut Http2,
    tunnel: &mut Option<Box<TunnelStream>>,
    clock: &mut Clock,
    request: Box<Request<RequestBody>>,
    deadline: impl Fn() -> Instant,
) -> Option<Result<Response<Incoming>, Unanswered>> {
    let mut exchange = match sender.send(*request) {
        Ok(exchange) => exchange,
        Err(error) => return Some(Err(error)),
    };
    let answered = poll_fn(|cx| match exchange.poll(cx) {
        Poll::Ready(answered) => Poll::Ready(Some(answered)),
        Poll::Pending => clock.poll(deadline(), cx).map(|()| None),
    });
    Some(match answered.await? {
        Err(error) => Err(error.into()),
        Ok(head) => {
            let (response, opened) = exchange.go_on(head);
            *tunnel = opened.map(Box::new);
            Ok(response)
        }
    })
}

fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(Driver(running)) = driver
        && running.as_mut().poll(cx).is_ready()
    {
        *driver = None;
    }
}

/// Polls for what a connection brings: what it has brought already, or brings now. hyper's two ends of a
/// connection wake each other; here they are one task, which would be polled once more for each piece that it
/// takes. So it drives for nobody at first, and asks to be woken only if there is nothing.
fn poll_through<T>(
    driver: &mut Option<Driver>,
    cx: &mut Context<'_>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    if driver.is_none() {
        return poll(cx);
    }
    let mut nobody = Context::from_waker(Waker::noop());
    if let Poll::Ready(brought) = poll(&mut nobody) {
        return Poll::Ready(brought);
    }
    drive(driver, &mut nobody);
    if let Poll::Ready(brought) = poll(&mut nobody) {
        return Poll::Ready(brought);
    }
    drive_and(driver, cx, &mut poll)
}

/// Drives a connection, and polls for what it has brought. Nothing comes but by driving, which wakes.
fn drive_and<T>(
    driver: &mut Option<Driver>,
    cx: &mut Context<'_>,
    poll: &mut impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    drive(driver, cx);
    match driver {
        Some(_) => poll(&mut Context::from_waker(Waker::noop())),
        None => poll(cx),
    }
}
