//! Bodies as they cross the proxy: streamed, watched for silence, and bound to what they hold on to.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::{pace::Pace, pool::Connection, rate::MinRate, streams::note_asked};
use crate::function::{Slot, Timeouts};

type BoxError = Box<dyn Error + Send + Sync>;

/// How far a request's body has come, for whoever waits for the response.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    /// Milliseconds after `began` of the last piece.
    last: AtomicU64,
    ended: AtomicBool,
    broken: AtomicBool,
    /// Whether the pod waits for more, and the client has not sent it.
    waiting: AtomicBool,
    slow: AtomicBool,
    answered: AtomicBool,
}

impl Progress {
    /// Whether the client's body broke off or was malformed: then whatever follows is the client's doing.
    pub(super) fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Whether the client has sent less than the minimum rate, and the body was given up.
    pub(super) fn slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// Whether it is the client that everybody waits for.
    pub(super) fn waits_for_client(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The response has begun: from now on the two are a conversation, in which a client may be silent.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    fn note(&self) {
        self.last.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// When the next piece, or the response's head, is overdue.
    pub(super) fn overdue(&self, timeouts: &Timeouts) -> Instant {
        let last = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed));
        last + if self.ended.load(Ordering::Relaxed) { timeouts.first_byte } else { timeouts.idle }
    }
}

/// A client's body on its way to a pod.
#[derive(Debug)]
pub(crate) struct RequestBody {
    /// `None`: there is none.
    body: Option<Incoming>,
    progress: Arc<Progress>,
    pace: Pace,
}

/// Why a request's body ended too early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// It broke off or is malformed.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// The client sends too slowly.
    #[error("the client sends less than the minimum rate")]
    Slow,
}

impl RequestBody {
    /// Wraps a body that has to come at a rate.
    pub(super) fn new(body: Incoming, rate: MinRate) -> Self {
        Self::of(Some(body).filter(|body| !body.is_end_stream()), rate)
    }

    /// No body.
    pub(super) fn empty() -> Self {
        Self::of(None, MinRate::default())
    }

    fn of(body: Option<Incoming>, rate: MinRate) -> Self {
        let progress = Progress {
            began: Instant::now(),
            last: AtomicU64::new(0),
            ended: AtomicBool::new(body.is_none()),
            broken: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        };
        Self { body, progress: Arc::new(progress), pace: Pace::new(rate) }
    }

    /// How far the body has come.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The clock starts when the request is forwarded, not while it is held.
    pub(super) fn forwarded(&self) {
        self.progress.note();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { body: Some(body), progress, pace } = &mut *self else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            progress.waiting.store(true, Ordering::Relaxed);
            if progress.answered.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            ready!(pace.poll_overdue(cx));
            progress.slow.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(BodyError::Slow)));
        };
        progress.note();
        progress.waiting.store(false, Ordering::Relaxed);
        match &frame {
            Some(Ok(frame)) => pace.moved(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => progress.broken.store(true, Ordering::Relaxed),
            None => {}
        }
        if frame.is_none() || body.is_end_stream() {
            progress.ended.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Why a response was cut short.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the function sent nothing for {0:?} (timeouts.idle)")]
    Idle(Duration),
    #[error("the response took longer than {0:?} (timeouts.total)")]
    Total(Duration),
}

/// A response's body: our own, or a pod's on its way to the client.
#[derive(Debug)]
pub struct ResponseBody(Kind);

#[derive(Debug)]
enum Kind {
    Own(Full<Bytes>),
    Pod(Box<PodBody>),
}

/// A pod's body. Whatever ends it gives the slot back; a complete one also keeps the connection.
#[derive(Debug)]
struct PodBody {
    body: Incoming,
    ended: bool,
    connection: Option<Connection>,
    slot: Slot,
    timer: Pin<Box<Sleep>>,
    last: Instant,
    idle: Duration,
    total: Duration,
    until: Instant,
}

impl From<Full<Bytes>> for ResponseBody {
    fn from(body: Full<Bytes>) -> Self {
        Self(Kind::Own(body))
    }
}

impl ResponseBody {
    /// Nothing.
    pub(super) fn empty() -> Self {
        Full::default().into()
    }

    /// Whether the activator made this response itself.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.0, Kind::Own(_))
    }

    /// A pod's body, with the slot that it occupies and the connection that it comes on.
    pub(super) fn from_pod(
        body: Incoming,
        slot: Slot,
        connection: Connection,
        timeouts: &Timeouts,
        until: Instant,
    ) -> Self {
        let last = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(until.min(last + timeouts.idle).into()));
        let (idle, total, connection) = (timeouts.idle, timeouts.total, Some(connection));
        let ended = body.is_end_stream();
        Self(Kind::Pod(Box::new(PodBody { body, ended, connection, slot, timer, last, idle, total, until })))
    }
}

impl PodBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.last = Instant::now();
            self.ended = frame.is_none() || self.body.is_end_stream();
            let piece = frame.as_ref().and_then(|frame| frame.as_ref().ok());
            note_asked(piece.map(|piece| piece.data_ref().map_or(0, Bytes::len)));
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        note_asked(None);
        // One timer for both clocks, set again only when it fires: most responses never see it fire.
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if now >= self.until {
                return Poll::Ready(Some(Err(Cut::Total(self.total).into())));
            }
            if now >= self.last + self.idle {
                return Poll::Ready(Some(Err(Cut::Idle(self.idle).into())));
            }
            self.timer.as_mut().reset(self.until.min(self.last + self.idle).into());
        }
    }
}

impl Drop for PodBody {
    fn drop(&mut self) {
        // A connection in the middle of a response can carry nothing else.
        if let Some(connection) = self.connection.take().filter(|_| self.ended) {
            self.slot.pod().pool.put(connection);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Kind::Pod(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Own(body) => body.is_end_stream(),
            Kind::Pod(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Own(body) => body.size_hint(),
            Kind::Pod(body) => body.body.size_hint(),
        }
    }
}
