//! What a client's connection is doing: serving requests, receiving the head of one, or nothing.
//!
//! The clocks for the latter two are one timer for each connection, which is only ever set again when it fires:
//! a request costs no more than a few stores.

use std::{
    future::{poll_fn, ready},
    mem,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Buf;
use futures_util::{
    FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered, task::AtomicWaker,
};
use http_body::{Body, Frame, SizeHint};
use hyper_util::server::graceful::GracefulConnection;
use tokio_util::sync::CancellationToken;

use super::streams::note_asked;
use crate::{
    memory::{ClientId, Idle, Memory},
    time,
};

/// How long an idle client has to close its connection once it was asked to.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a connection may do nothing. As Kestrel has it: 30 s and 130 s, the latter longer than what common load
/// balancers keep idle connections for, so that it is they who close them.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// For the head of a request, from its first byte, or from the beginning of the connection.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
}

impl Default for Clocks {
    fn default() -> Self {
        Self { head: Duration::from_secs(30), idle: Duration::from_secs(130) }
    }
}

/// What one connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// Requests that are being answered.
    open: AtomicU32,
    /// Milliseconds of its age when the last of them ended.
    quiet: AtomicU64,
    /// Milliseconds of its age when the head of a request began, and 1; 0: none has.
    head: AtomicU64,
    tunnelled: AtomicBool,
    /// Whether it has streams: those of HTTP/2.
    streams: AtomicBool,
    /// Whoever waits until no request is being answered.
    quiet_waker: AtomicWaker,
}

impl Activity {
    /// A connection that begins now: with the head of a request.
    pub(super) fn begin() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            open: AtomicU32::new(0),
            quiet: AtomicU64::new(0),
            head: AtomicU64::new(1),
            tunnelled: AtomicBool::new(false),
            streams: AtomicBool::new(false),
            quiet_waker: AtomicWaker::new(),
        })
    }

    /// Whose it is: no other connection has this while it lives.
    pub(super) fn client(self: &Arc<Self>) -> ClientId {
        Arc::as_ptr(self).addr()
    }

    /// How long ago it began.
    pub(super) fn age(&self) -> Duration {
        time::now().saturating_duration_since(self.began)
    }

    /// Bytes have come that are part of a head, unless a request is being answered.
    pub(super) fn head(&self) {
        if self.open.load(Ordering::Relaxed) == 0 && self.head.load(Ordering::Relaxed) == 0 {
            self.head.store(self.millis() + 1, Ordering::Relaxed);
        }
    }

    /// No head has begun.
    fn no_head(&self) {
        self.head.store(0, Ordering::Relaxed);
    }

    /// It speaks HTTP/2. From now on silence is that of an idle connection.
    pub(super) fn http2(&self) {
        self.streams.store(true, Ordering::Relaxed);
        self.no_head();
    }

    /// A request has come.
    pub(super) fn request(self: &Arc<Self>) -> OpenRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.no_head();
        OpenRequest(Arc::clone(self))
    }

    /// Whether a request is being answered. Who asks is woken when none is any longer.
    pub(super) fn is_answering(&self, cx: &Context<'_>) -> bool {
        self.quiet_waker.register(cx.waker());
        self.open.load(Ordering::Acquire) > 0
    }

    /// Whether none is.
    pub(super) fn is_quiet(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Whether the connection carries something else than HTTP by now.
    pub(super) fn tunnelled(&self) -> bool {
        self.tunnelled.load(Ordering::Acquire)
    }

    fn millis(&self) -> u64 {
        self.age().as_millis() as u64
    }

    /// What the clocks say.
    fn verdict(&self, clocks: &Clocks) -> Verdict {
        let since = match self.head.load(Ordering::Relaxed) {
            _ if self.open.load(Ordering::Relaxed) > 0 => None,
            0 => Some((self.quiet.load(Ordering::Relaxed), clocks.idle, Verdict::Idle)),
            head => Some((head - 1, clocks.head, Verdict::SlowHead)),
        };
        judge(since, self.age(), clocks)
    }
}

impl Idle for Activity {
    fn idle_since(&self) -> Option<Instant> {
        let since = match self.head.load(Ordering::Relaxed) {
            _ if !self.is_quiet() => return None,
            0 => self.quiet.load(Ordering::Relaxed),
            head => head - 1,
        };
        Some(self.began + Duration::from_millis(since))
    }
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing until this time has passed.
    Fine(Duration),
    /// It has done nothing for too long.
    Idle,
    /// It has taken too long for a head.
    SlowHead,
}

/// `since`: the age in milliseconds since when the connection waits, how long it may, and what it is then.
fn judge(since: Option<(u64, Duration, Verdict)>, age: Duration, clocks: &Clocks) -> Verdict {
    // A head may begin at any time: looked at so often, it gets at most a quarter more than its time.
    let look = clocks.head / 4;
    let Some((since, allowed, late)) = since else { return Verdict::Fine(look) };
    let until = Duration::from_millis(since) + allowed;
    match until.saturating_sub(age) {
        Duration::ZERO => late,
        left => Verdict::Fine(left.min(look)),
    }
}

/// A request that is being answered, until its response's body is dropped, and the tunnel that it may have
/// opened has ended.
#[derive(Debug)]
pub(in crate::proxy) struct OpenRequest(Arc<Activity>);

impl Clone for OpenRequest {
    fn clone(&self) -> Self {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl OpenRequest {
    /// The request has made something else than HTTP of its connection.
    pub(in crate::proxy) fn tunnel(&self) {
        self.0.tunnelled.store(true, Ordering::Release);
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.quiet.store(self.0.millis(), Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Release);
        self.0.quiet_waker.wake();
    }
}

/// A response's body, and the request that it ends.
#[derive(Debug)]
pub(super) struct Counted<B> {
    pub(super) body: B,
    pub(super) open: OpenRequest,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let piece = match &frame {
            Poll::Ready(Some(Ok(piece))) => Some(piece.data_ref().map_or(0, Buf::remaining)),
            _ => None,
        };
        note_asked(self.open.0.client(), piece);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End<E> {
    /// By itself.
    Closed,
    /// hyper has given it up.
    Broken(E),
    /// It was asked to close, or cut, because it did nothing.
    Idle,
    /// It was cut because a head took too long.
    SlowHead,
}

/// Drives a connection until it ends, by itself or by its clocks. It is asked to end when `leave` says so, or when it does
/// nothing and others need what it keeps.
pub(super) async fn drive<C: GracefulConnection>(
    connection: C,
    activity: &Arc<Activity>,
    clocks: &Clocks,
    memory: &Memory,
    leave: CancellationToken,
) -> End<C::Error> {
    let mut connection = pin!(connection);
    let debt = memory.owe_when_idle(activity.client(), Arc::clone(activity) as _);
    // Polled only when they have something to say: a connection is woken for each request.
    let mut seldom = FuturesUnordered::new();
    seldom.push(leave.cancelled_owned().map(|()| Seldom::Leave).boxed());
    seldom.push(poll_fn(move |cx| debt.poll_ended(cx)).map(|()| Seldom::Idle).boxed());
    seldom.push(after(clocks.head / 4, Seldom::Time));
    let (mut idle, mut behind) = (false, false);
    loop {
        let what = tokio::select! {
            biased;
            ended = poll_fn(|cx| {
                // Behind the streams that have something to say by now: it goes out together, with one call of the
                // kernel. Without this it would be polled behind the first of them, and again behind each other.
                if activity.streams.load(Ordering::Relaxed) && !mem::replace(&mut behind, true) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                behind = false;
                time::turn(|| connection.as_mut().poll(cx))
            }) => return match ended {
                _ if idle => End::Idle,
                Err(error) => End::Broken(error),
                Ok(()) => End::Closed,
            },
            Some(what) = seldom.next() => what,
        };
        match what {
            Seldom::Leave => connection.as_mut().graceful_shutdown(),
            Seldom::Time => match activity.verdict(clocks) {
                Verdict::Fine(next) => seldom.push(after(next, Seldom::Time)),
                Verdict::SlowHead => return End::SlowHead,
                Verdict::Idle => seldom.push(ready(Seldom::Idle).boxed()),
            },
            Seldom::Idle => {
                idle = true;
                connection.as_mut().graceful_shutdown();
                seldom.push(after(FAREWELL, Seldom::Farewell));
            }
            Seldom::Farewell if activity.is_quiet() => return End::Idle,
            Seldom::Farewell => seldom.push(after(FAREWELL, Seldom::Farewell)),
        }
    }
}

/// What happens to a connection beside its requests.
enum Seldom {
    /// It is to end.
    Leave,
    /// It is time to look at its clocks.
    Time,
    /// It has done nothing for too long, or others need what it keeps.
    Idle,
    /// By now it has had time to end.
    Farewell,
}

fn after(pause: Duration, what: Seldom) -> BoxFuture<'static, Seldom> {
    tokio::time::sleep(pause).map(|()| what).boxed()
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io, sync::atomic::AtomicUsize, task::ready};

    use bytes::Bytes;
    use futures_util::future::join_all;
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
    };
    use tokio::{
        io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
        sync::Barrier,
    };

    use super::{super::flood::FloodGuard, *};

    #[test]
    fn only_silence_is_judged() {
        let clocks = Clocks { head: Duration::from_secs(8), idle: Duration::from_secs(100) };
        let (look, s) = (Verdict::Fine(Duration::from_secs(2)), Duration::from_secs);
        let idle = |since| Some((since, clocks.idle, Verdict::Idle));
        let head = |since| Some((since, clocks.head, Verdict::SlowHead));
        let rows = [
            ("a request is being answered", None, s(1_000), look),
            ("idle for a while", idle(1_000), s(50), look),
            ("idle for almost too long", idle(1_000), s(100), Verdict::Fine(s(1))),
            ("idle for too long", idle(1_000), s(101), Verdict::Idle),
            ("a head that begins", head(0), s(1), look),
            ("a head that takes too long", head(0), s(8), Verdict::SlowHead),
        ];
        for (what, since, age, expected) in rows {
            assert_eq!(judge(since, age, &clocks), expected, "{what}");
        }
    }

    /// Counts what is written with one call each.
    struct Writes(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for Writes {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.0).poll_write(cx, bytes))?;
            self.1.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Ok(written))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn responses_of_several_streams_go_out_together() {
        const STREAMS: usize = 10;
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (writes, all) = (Arc::<AtomicUsize>::default(), Arc::new(Barrier::new(STREAMS)));
        let counted = Arc::clone(&writes);
        tokio::spawn(async move {
            let activity = Activity::begin();
            let guard = FloodGuard::new(Writes(near, Arc::clone(&counted)), Arc::clone(&activity));
            let service = service_fn(|_: Request<Incoming>| {
                let (counted, all) = (Arc::clone(&counted), Arc::clone(&all));
                async move {
                    if all.wait().await.is_leader() {
                        counted.store(0, Ordering::Relaxed);
                    }
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(&[0; 700]))))
                }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(guard), service);
            let (clocks, memory) = (Clocks::default(), Memory::default());
            drive(connection, &activity, &clocks, &memory, CancellationToken::new()).await
        });
        let (mut sender, connection) = h2::client::handshake(far).await.unwrap();
        tokio::spawn(connection);
        let requests = (0..STREAMS).map(|_| {
            let request = Request::get("http://hello.demo/").body(()).unwrap();
            sender.send_request(request, true).unwrap().0
        });
        for response in join_all(requests.collect::<Vec<_>>()).await {
            let mut body = response.unwrap().into_body();
            while body.data().await.is_some() {}
        }
        let writes = writes.load(Ordering::Relaxed);
        assert!(writes < STREAMS / 2, "{writes}");
    }
}
