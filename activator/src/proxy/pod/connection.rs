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

use futures_util::future::Either;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{TrySendError, http1, http2},
};
use pilotlight_crds::Protocol;
use tokio_util::task::AbortOnDropHandle;

use crate::proxy::{body::RequestBody, clock::Clock};

/// What comes of a request: nothing, perhaps, and then the request itself if it was not sent.
pub(super) type Answered = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// A connection to a pod.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: Sender,
    /// `None`: it has a task of its own, or has ended.
    driver: Option<Driver>,
    /// One that somebody drove at first, and that now drives itself [`Until::Dropped`].
    task: Option<AbortOnDropHandle<()>>,
    /// For whoever uses it now.
    clock: Clock,
}

/// Where requests go in.
#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    /// A clone is the same connection.
    Http2(http2::SendRequest<RequestBody>),
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
        let driver = Some(Driver(Box::pin(driver)));
        Self { sender: Sender::Http1(sender), driver, task: None, clock: Clock::default() }
    }

    /// One that has a task.
    pub(super) fn http2(sender: http2::SendRequest<RequestBody>) -> Self {
        Self { sender: Sender::Http2(sender), driver: None, task: None, clock: Clock::default() }
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
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a request and waits for the head of its response. `None`: it was overdue first.
    pub(super) async fn send(
        &mut self,
        request: Box<Request<RequestBody>>,
        deadline: impl Fn(&Context<'_>) -> Instant,
    ) -> Option<Answered> {
        let Self { sender, driver, clock, .. } = self;
        let mut answer = pin!(sender.send(*request));
        let mut sent = false;
        poll_fn(|cx| {
            let mut poll = |cx: &mut Context<'_>| answer.as_mut().poll(cx);
            let answered = match std::mem::replace(&mut sent, true) {
                // There can be no answer before it is driven.
                false => drive_and(driver, cx, &mut poll),
                true => poll_through(driver, cx, poll),
            };
            match answered {
                Poll::Ready(answered) => Poll::Ready(Some(answered)),
                Poll::Pending => clock.poll(deadline(cx), cx).map(|()| None),
            }
        })
        .await
    }

    /// The next piece of a response's body.
    pub(in crate::proxy) fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
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

impl Sender {
    /// Hands a request over at once; the answer comes when the connection is driven.
    fn send(&mut self, request: Request<RequestBody>) -> impl Future<Output = Answered> {
        match self {
            Self::Http1(sender) => Either::Left(sender.try_send_request(request)),
            Self::Http2(sender) => Either::Right(sender.try_send_request(request)),
        }
    }
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
