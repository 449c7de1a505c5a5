//! A client's connection, in the version of HTTP that the client speaks.

use std::{
    convert::Infallible,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use futures_util::{FutureExt as _, future::NeverError};
use http::{Request, Response};
use hyper::{server::conn::http1, service::Service, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_util::{either::Either, io::poll_read_buf};

use super::{
    activity::Activity,
    answers::Answers,
    frames::PREFACE,
    framing::{MAX_FIELDS, MAX_HEAD},
    guard::Guard,
    http2::{Http2, Http2Error},
    socket::Socket,
    streams::StreamLimits,
};
use crate::{
    proxy::{body::RequestBody, interim::Interim},
    time,
};

/// How much is read at first.
const FIRST: usize = 4 * 1024;

/// A client's connection.
pub(super) struct Connection<T, S: Answers>(State<T, S>);

enum State<T, S: Answers> {
    Begins(Begins<T, S>),
    Http1(Pin<Box<Http1<T, S>>>),
    Http2(Box<Http2<T, S>>),
    Ended,
}

/// What clients speak HTTP on.
pub(super) type Stream = Either<Socket, Box<TlsStream<Socket>>>;

type Http1<T, S> = http1::UpgradeableConnection<TokioIo<Guard<T>>, Http1Service<S>>;

/// One on which too little has come to know the version.
pub(super) struct Begins<T, S> {
    pub(super) io: T,
    pub(super) service: S,
    /// HTTP/2: what streams have to keep to.
    pub(super) limits: Arc<StreamLimits>,
    pub(super) activity: Arc<Activity>,
    /// HTTP/1: what is said before responses.
    pub(super) interim: Arc<Interim>,
    /// What has come.
    pub(super) read: BytesMut,
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// Before it was known what it speaks.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// HTTP/1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// HTTP/2.
    #[error(transparent)]
    Http2(#[from] Http2Error),
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static, S: Answers> Connection<T, S> {
    /// One that begins.
    pub(super) fn new(begins: Begins<T, S>) -> Self {
        Self(State::Begins(begins))
    }

    /// Serves requests; ready when it has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        if let State::Begins(begins) = &mut self.0 {
            let http2 = ready!(begins.poll_version(cx))?;
            if let State::Begins(begins) = mem::replace(&mut self.0, State::Ended) {
                self.0 = if http2 { begins.http2() } else { begins.http1() };
            }
        }
        match &mut self.0 {
            State::Http1(connection) => connection.as_mut().poll(cx).map_err(ConnectionError::from),
            State::Http2(connection) => connection.poll(cx).map_err(ConnectionError::from),
            State::Begins(_) | State::Ended => Poll::Ready(Ok(())),
        }
    }

    /// Has it end when it has answered what has come.
    pub(super) fn leave(&mut self) {
        match &mut self.0 {
            State::Begins(_) => self.0 = State::Ended,
            State::Http1(connection) => connection.as_mut().graceful_shutdown(),
            State::Http2(connection) => connection.leave(),
            State::Ended => {}
        }
    }
}

impl<T: AsyncRead + Unpin, S> Begins<T, S> {
    /// Whether it is HTTP/2: no request of HTTP/1 begins as its preface does (RFC 9113, section 3.4).
    fn poll_version(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let known = self.read.len().min(PREFACE.len());
            if self.read[..known] != PREFACE[..known] {
                return Poll::Ready(Ok(false));
            }
            if known == PREFACE.len() {
                return Poll::Ready(Ok(true));
            }
            self.read.reserve(FIRST);
            if ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.read))? == 0 {
                // What there is to say of half a request, HTTP/1 says.
                return Poll::Ready(Ok(false));
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send, S: Answers> Begins<T, S> {
    fn http1(self) -> State<T, S> {
        let guard = Guard::new(self.io, self.read, self.activity, self.interim);
        let mut builder = http1::Builder::new();
        // `Clocks` has the time for a head, for both versions, without a timer for each request.
        builder.header_read_timeout(None).max_buf_size(MAX_HEAD).max_headers(MAX_FIELDS);
        let connection = builder.serve_connection(TokioIo::new(guard), Http1Service(self.service));
        State::Http1(Box::pin(connection.with_upgrades()))
    }

    fn http2(self) -> State<T, S> {
        let Self { io, service, limits, activity, read, .. } = self;
        // Its preface has come. From now on silence is that of an idle connection.
        activity.no_head();
        State::Http2(Box::new(Http2::new(io, read.freeze(), service, limits, activity)))
    }
}

/// What answers, as hyper calls it.
struct Http1Service<S>(S);

impl<S: Answers> Service<Request<hyper::body::Incoming>> for Http1Service<S> {
    type Response = Response<S::Body>;
    type Error = Infallible;
    type Future = NeverError<S::Answer>;

    fn call(&self, request: Request<hyper::body::Incoming>) -> Self::Future {
        let began = time::now();
        self.0.answer(Box::new(request.map(|body| RequestBody::new(body.into(), began)))).never_error()
    }
}

/// Makes of the end of a client's upgraded connection a reset, so that what it carried does not look
/// complete. TLS has its own mark of a complete end, which is just not sent.
pub(in crate::proxy) fn reset(end: Upgraded) {
    if let Ok(parts) = end.downcast::<TokioIo<Guard<Stream>>>()
        && let Either::Left(socket) = parts.io.inner().get_ref()
    {
        socket.reset();
    }
}
