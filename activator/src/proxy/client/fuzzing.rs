//! Fuzz targets of what stands between a client and hyper.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    activity::Activity,
    frames::FrameBudget,
    framing::{Broken, Framing, MAX_FIELDS, MAX_HEAD},
    guard::Guard,
};

/// The last byte says how the stream before it is cut: into pieces of so many bytes.
fn cut(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (size, stream) = bytes.split_last()?;
    Some((stream, usize::from(*size).max(1)))
}

/// The guard's decisions do not depend on how the network cuts a stream.
pub fn framing(bytes: &[u8]) {
    let Some((stream, size)) = cut(bytes) else { return };
    let whole = follow(stream, stream.len().max(1));
    let pieces = follow(stream, size);
    assert_eq!((whole.passed, whole.broken.map(|_| ())), (pieces.passed, pieces.broken.map(|_| ())));
    assert_eq!(whole.broken.map(|broken| broken.in_body), pieces.broken.map(|broken| broken.in_body));
}

/// What came of following a stream.
#[derive(Default)]
struct Followed {
    passed: usize,
    broken: Option<Broken>,
    /// Beginnings of the heads that have passed; known only if the stream came byte by byte.
    heads: Vec<usize>,
    opaque: bool,
}

fn follow(stream: &[u8], size: usize) -> Followed {
    let (mut framing, mut held, mut followed) = (Framing::new(), Vec::new(), Followed::default());
    for piece in stream.chunks(size) {
        held.extend_from_slice(piece);
        let passed = match framing.follow(&held) {
            Ok(passed) => passed,
            Err(broken) => {
                followed.broken = Some(broken);
                followed.passed += broken.passed;
                return followed;
            }
        };
        assert!(passed <= held.len(), "more passes than came");
        // Of a body each byte passes alone.
        if passed > 1 {
            followed.heads.push(followed.passed);
        }
        followed.passed += passed;
        followed.opaque |= framing.is_opaque();
        held.drain(..passed);
    }
    followed
}

/// What hyper makes of what the guard lets pass: exactly the requests that the guard has seen, in order.
pub fn guard(bytes: &[u8]) {
    let Some((stream, size)) = cut(bytes) else { return };
    let followed = follow(stream, 1);
    if followed.opaque {
        return;
    }
    let (seen, outcome) = serve(stream, size);
    // hyper must find nothing wrong with a head that the guard has let pass.
    if let Some(Err(error)) = &outcome {
        assert!(!error.is_parse(), "{error:?}: {}", stream.escape_ascii());
    }
    let mut expected = followed.heads.iter().map(|at| first_line(&stream[*at..]));
    for (index, (method, target)) in seen.iter().enumerate() {
        if target == "*" && method != "OPTIONS" {
            let in_head = followed.broken.is_some_and(|broken| !broken.in_body);
            assert!(
                in_head && index + 1 == seen.len(),
                "refused without a reason: {}",
                stream.escape_ascii()
            );
            continue;
        }
        let (good_method, good_target) = expected.next().unwrap_or_default();
        assert_eq!(method.as_bytes(), good_method, "{}", stream.escape_ascii());
        let same = target.as_bytes() == good_target || good_target.first() != Some(&b'/');
        assert!(same, "{target} in place of {}", good_target.escape_ascii());
    }
}

/// Method and target, behind the empty lines that may come before a request.
fn first_line(head: &[u8]) -> (&[u8], &[u8]) {
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or_default();
    let mut words = head[start..].split(|byte| *byte == b' ');
    (words.next().unwrap_or_default(), words.next().unwrap_or_default())
}

/// Method and target of each request that hyper has handed to its service, and how the connection ended, if it did.
type Served = (Vec<(String, String)>, Option<hyper::Result<()>>);

fn serve(stream: &[u8], size: usize) -> Served {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let reads = Rc::new(Cell::new(0));
    let kept = Rc::clone(&seen);
    let service = service_fn(move |request: Request<Incoming>| {
        let target = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
        kept.borrow_mut().push((request.method().to_string(), target));
        async move {
            let whole = request.into_body().collect().await;
            let status = if whole.is_ok() { 200 } else { 400 };
            let mut response = Response::new(Full::new(Bytes::new()));
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
            Ok::<_, Infallible>(response)
        }
    });
    let client = Client { stream: stream.to_vec(), at: 0, size, reads: Rc::clone(&reads) };
    let io = TokioIo::new(Guard::new(client, BytesMut::new(), Activity::begin(), Arc::default()));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD).max_headers(MAX_FIELDS);
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let mut context = Context::from_waker(Waker::noop());
    // Everything is there at once; only hyper itself may want to go on later.
    let mut idle = 0;
    let mut outcome = None;
    while idle < 4 && outcome.is_none() {
        let before = (reads.get(), seen.borrow().len());
        if let Poll::Ready(ended) = connection.as_mut().poll(&mut context) {
            outcome = Some(ended);
        }
        idle = if before == (reads.get(), seen.borrow().len()) { idle + 1 } else { 0 };
    }
    (seen.take(), outcome)
}

/// A client that sends a stream in pieces, reads everything and stays.
struct Client {
    stream: Vec<u8>,
    at: usize,
    size: usize,
    reads: Rc<Cell<usize>>,
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let piece = self.size.min(self.stream.len() - self.at).min(buf.remaining());
        if piece == 0 {
            return Poll::Pending;
        }
        buf.put_slice(&self.stream[self.at..self.at + piece]);
        self.at += piece;
        self.reads.set(self.reads.get() + 1);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The budget of HTTP/2 frames is spent at the same byte however the stream is cut.
pub fn frames(bytes: &[u8]) {
    let Some((stream, size)) = cut(bytes) else { return };
    let end = |size: usize| {
        let (mut budget, mut before) = (FrameBudget::new(), 0);
        stream.chunks(size).find_map(|chunk| {
            let end = budget.received(chunk, || Duration::ZERO).map(|kept| before + kept);
            before += chunk.len();
            end
        })
    };
    assert_eq!(end(stream.len().max(1)), end(size));
}
