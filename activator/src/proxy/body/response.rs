//! A response's body on its way to a client: watched for silence, cut when its time is over, and bound to the slot
//! and the connection that it holds.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::{
    incoming::{Incoming, IncomingError},
    progress::Progress,
};
use crate::{
    function::Slot,
    proxy::{
        grpc::{self, Code},
        pod::Connection,
    },
};

/// Pieces from this size on are kept with the buffer that they came in.
const SMALL: usize = 2 * 1024;

type BoxError = Box<dyn Error + Send + Sync>;

/// Why a response was cut short.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(in crate::proxy) enum Cut {
    #[error("the function sent nothing for {0:?} (timeouts.idle)")]
    Idle(Duration),
    #[error("the response took longer than {0:?} (timeouts.total)")]
    Total(Duration),
    #[error("the call's deadline (grpc-timeout) is over")]
    Deadline,
}

/// How long a response's body may go on.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Bounds {
    /// Silence.
    pub(in crate::proxy) idle: Duration,
    /// The end, whatever happens.
    pub(in crate::proxy) until: Instant,
    /// What there is to say then.
    pub(in crate::proxy) cut: Cut,
    /// Whether it answers a gRPC call: then its last word can be a status.
    pub(in crate::proxy) call: bool,
}

/// What a response's body holds on to until it has ended.
#[derive(Debug)]
pub(in crate::proxy) struct Source {
    pub(in crate::proxy) slot: Slot,
    pub(in crate::proxy) connection: Connection,
    pub(in crate::proxy) upload: Arc<Progress>,
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
    broken: Option<IncomingError>,
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
    pub(in crate::proxy) fn empty() -> Self {
        Full::default().into()
    }

    /// Whether the activator made this response itself.
    pub(in crate::proxy) fn is_ours(&self) -> bool {
        matches!(self.0, Kind::Own(_))
    }

    /// A pod's body.
    pub(in crate::proxy) fn from_pod(body: Incoming, source: Source, bounds: Bounds) -> Self {
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
    fn break_off(&mut self, error: IncomingError) -> Result<Frame<Bytes>, BoxError> {
        if error.reset().is_some() {
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
        match &mut self.0 {
            Kind::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Kind::Pod(body) => body.poll(cx),
        }
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
