//! Bodies as they cross the proxy: streamed, watched for silence, and bound to what they hold on to.

mod progress;

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
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

pub(super) use self::progress::Progress;
use super::{
    client::{MinRate, Pace, note_asked},
    expect::Gate,
    grpc::{self, Code},
    pod::{
        Connection,
        repeat::{Kept, Supply},
    },
};
use crate::function::Slot;

/// Pieces from this size on are kept with the buffer that they came in.
const SMALL: usize = 2 * 1024;

type BoxError = Box<dyn Error + Send + Sync>;

/// A client's body on its way to a pod.
#[derive(Debug)]
pub(crate) struct RequestBody {
    supply: Supply,
    gate: Option<Gate>,
    progress: Arc<Progress>,
    pace: Pace,
    /// Where it is kept in case it has to be sent again.
    kept: Option<Arc<Kept>>,
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
    /// The response has ended without the rest of it.
    #[error("the response has ended")]
    Unwanted(#[source] h2::Error),
}

impl RequestBody {
    /// Wraps a client's body.
    pub(super) fn new(body: Incoming, now: Instant) -> Self {
        Self::of(if body.is_end_stream() { Supply::Nothing } else { Supply::Client(body) }, now)
    }

    /// What was sent before.
    pub(super) fn again(pieces: Vec<Bytes>) -> Self {
        Self::of(Supply::Again(pieces.into_iter()), Instant::now())
    }

    /// No body.
    pub(super) fn empty() -> Self {
        Self::of(Supply::Nothing, Instant::now())
    }

    fn of(supply: Supply, now: Instant) -> Self {
        let progress = Progress {
            began: now,
            last: AtomicU64::new(0),
            ended: AtomicBool::new(supply.is_end_stream()),
            broken: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            unasked: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            waiter: AtomicWaker::new(),
        };
        let pace = Pace::of_sender(MinRate::default());
        Self { supply, gate: None, progress: Arc::new(progress), pace, kept: None }
    }

    /// From now on it has to come at a rate.
    pub(super) fn keep_to(&mut self, rate: MinRate) {
        self.pace = Pace::of_sender(rate);
    }

    /// Keeps the body until a gate opens.
    pub(super) fn keep_behind(&mut self, gate: Gate) {
        self.gate = Some(gate);
        self.progress.unasked.store(true, Ordering::Relaxed);
    }

    /// Keeps what is sent from now on.
    pub(super) fn keep_in(&mut self, kept: Arc<Kept>) {
        self.kept = Some(kept);
    }

    /// How far the body has come.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The clock starts when the request is forwarded, not while it is held.
    pub(super) fn forwarded(&self, now: Instant) {
        self.progress.note(now);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { supply, gate, progress, pace, kept } = &mut *self;
        if let Supply::Nothing = supply {
            return Poll::Ready(None);
        }
        if progress.is_abandoned(cx) {
            return Poll::Ready(Some(Err(BodyError::Unwanted(h2::Reason::CANCEL.into()))));
        }
        if let Some(closed) = gate {
            ready!(closed.poll(cx));
            *gate = None;
            progress.unasked.store(false, Ordering::Relaxed);
        }
        let Poll::Ready(frame) = supply.poll_frame(cx) else {
            progress.waiting.store(true, Ordering::Relaxed);
            if progress.answered.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            ready!(pace.poll_overdue(cx));
            progress.slow.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(BodyError::Slow)));
        };
        progress.note(Instant::now());
        progress.waiting.store(false, Ordering::Relaxed);
        match &frame {
            Some(Ok(frame)) => pace.moved(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => progress.broken.store(true, Ordering::Relaxed),
            None => {}
        }
        let last = frame.is_none() || supply.is_end_stream();
        if last {
            progress.end();
        }
        if let Some(kept) = kept {
            kept.note(frame.as_ref().and_then(|frame| frame.as_ref().ok()), last);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.supply.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.supply.size_hint()
    }
}

/// Why a response was cut short.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Cut {
    #[error("the function sent nothing for {0:?} (timeouts.idle)")]
    Idle(Duration),
    #[error("the response took longer than {0:?} (timeouts.total)")]
    Total(Duration),
    #[error("the call's deadline (grpc-timeout) is over")]
    Deadline,
}

/// How long a response's body may go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Silence.
    pub(super) idle: Duration,
    /// The end, whatever happens.
    pub(super) until: Instant,
    /// What there is to say then.
    pub(super) cut: Cut,
    /// Whether it answers a gRPC call: then its last word can be a status.
    pub(super) call: bool,
}

/// What a response's body holds on to until it has ended.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) slot: Slot,
    pub(super) connection: Connection,
    pub(super) upload: Arc<Progress>,
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
    /// Whether a status of our own was its last word.
    told: bool,
    /// Why it broke off: told when what came before has gone out.
    broken: Option<hyper::Error>,
    connection: Option<Connection>,
    slot: Slot,
    upload: Arc<Progress>,
    /// Since when the pod has sent nothing, while that is waited for.
    silent: Option<Instant>,
    bounds: Bounds,
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

    /// A pod's body.
    pub(super) fn from_pod(body: Incoming, source: Source, bounds: Bounds) -> Self {
        let Source { slot, connection, upload } = source;
        let (ended, connection) = (body.is_end_stream(), Some(connection));
        let (told, broken, silent) = (false, None, None);
        Self(Kind::Pod(Box::new(PodBody {
            body,
            ended,
            told,
            broken,
            connection,
            slot,
            upload,
            silent,
            bounds,
        })))
    }
}

/// A piece that keeps no more in memory than it has. It is part of the buffer that it was read into, 8 KiB or more, and
/// many small ones may wait for one client.
fn alone(piece: Bytes) -> Bytes {
    if piece.len() < SMALL { Bytes::copy_from_slice(&piece) } else { piece }
}

impl PodBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.told {
            return Poll::Ready(None);
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(self.break_off(error)));
        }
        // It is there until the end.
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = connection.poll_body(&mut self.body, cx) {
            self.silent = None;
            self.ended = frame.is_none() || self.body.is_end_stream();
            return match frame.transpose() {
                Ok(frame) if self.ended => Poll::Ready(frame.map(Ok)),
                Ok(frame) => Poll::Ready(frame.map(|frame| Ok(frame.map_data(alone)))),
                Err(error) => {
                    self.broken = Some(error);
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            };
        }
        let Bounds { idle, until, cut, .. } = self.bounds;
        let overdue = *self.silent.get_or_insert_with(Instant::now) + idle;
        ready!(connection.poll_overdue(until.min(overdue), cx));
        let cut = if until <= overdue { cut } else { Cut::Idle(idle) };
        Poll::Ready(Some(self.cut(cut)))
    }

    /// A pod that resets a call says why in the code of its reset, which goes on to the client. One whose
    /// connection broke has said nothing.
    fn break_off(&mut self, error: hyper::Error) -> Result<Frame<Bytes>, BoxError> {
        let reset = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        if reset.is_some_and(|reset| reset.reason().is_some()) {
            return Err(error.into());
        }
        self.end(Code::Unavailable, error.into())
    }

    fn cut(&mut self, cut: Cut) -> Result<Frame<Bytes>, BoxError> {
        let code = match cut {
            Cut::Idle(_) => Code::Unavailable,
            Cut::Total(_) | Cut::Deadline => Code::DeadlineExceeded,
        };
        self.end(code, cut.into())
    }

    /// A response cut short never looks complete: a call ends with a status that says so, and anything else
    /// with a reset.
    fn end(&mut self, code: Code, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        if !self.bounds.call {
            return Err(error);
        }
        self.told = true;
        Ok(Frame::trailers(grpc::status(code, &error.to_string(), None)))
    }
}

impl Drop for PodBody {
    fn drop(&mut self) {
        // A connection of HTTP/1 in the middle of a message can carry nothing else.
        let whole = self.ended && self.upload.ended();
        if let Some(connection) = self.connection.take().filter(|it| whole || it.is_shared()) {
            self.slot.pod().pool.put(connection);
        }
        if !self.upload.ended() {
            self.upload.abandon();
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
        let frame = match &mut self.0 {
            Kind::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Kind::Pod(body) => body.poll(cx),
        };
        note_asked(match &frame {
            Poll::Ready(Some(Ok(piece))) => Some(piece.data_ref().map_or(0, Bytes::len)),
            _ => None,
        });
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Own(body) => body.is_end_stream(),
            Kind::Pod(body) => body.told || body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Own(body) => body.size_hint(),
            Kind::Pod(body) => body.body.size_hint(),
        }
    }
}
