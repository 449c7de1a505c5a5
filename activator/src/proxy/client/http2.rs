//! A client's connection of HTTP/2, with its streams.
//!
//! The streams are part of the connection's task. What they have to say goes out together, at the end of a
//! [turn](super::turn) or of the next; and none of them is woken, moved to another core, or moved back, for each message.

use std::{
    io, mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use h2::{
    Reason, RecvStream,
    server::{self, Handshake, SendResponse},
};
use http::{Method, Request};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    task::{Unconstrained, unconstrained, yield_now},
};

use super::{
    activity::{Activity, Limit},
    answers::Answers,
    flood::FloodGuard,
    framing::MAX_HEAD,
    gather::Gather,
    streams::{Opening, Stage, Stream, StreamLimits},
    turn::Turns,
};
use crate::{
    memory::cost,
    proxy::{body::RequestBody, http2::Received, interim::Interim, tunnel::ClientStream},
    time,
};

/// Streams per connection, and bytes that a client may send ahead on one stream and on all of them. The windows are those
/// of Envoy's guide for proxies at the edge.
const MAX_STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What is buffered of a response on its way to the client, for each stream (h2's own default is 400 KiB, which is 40 MiB
/// for a connection whose client reads nothing).
const STREAM_BUFFER: usize = 64 * 1024;
/// Streams that a client may have reset before we have looked at them. More at once is a rapid reset (CVE-2023-44487),
/// and ends the connection with ENHANCE_YOUR_CALM. h2's own default; here so that it stays.
const PENDING_RESETS: usize = 20;
/// Streams of a connection that we may have to reset or refuse because of what the client does there (CVE-2025-8671,
/// "MadeYouReset"). A client that knows the protocol needs none, except for the streams that it opens before it has seen
/// how many there may be.
const PROVOKED_RESETS: usize = 200;
/// Streams of one connection that begin in one turn. Others have their turn in between; and what these take of memory is
/// seen before there are many more.
const BEGUN_AT_ONCE: usize = 8;

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum Http2Error {
    /// The kernel, or a clock of the socket, said so.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client has broken the protocol's rules, or h2 has.
    #[error(transparent)]
    Protocol(h2::Error),
    /// The client asked for too much work.
    #[error("the client sends too many frames that ask for work and bring none")]
    Flood,
    /// The client has not answered a ping.
    #[error("the client has vanished")]
    Vanished,
}

impl From<h2::Error> for Http2Error {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(Reason::ENHANCE_YOUR_CALM) if !error.is_remote() => Self::Flood,
            _ if error.is_io() => error.into_io().map_or(Self::Vanished, Self::Io),
            _ => Self::Protocol(error),
        }
    }
}

/// A client's connection of HTTP/2.
pub(super) struct Http2<T, S: Answers> {
    turns: Turns,
    parts: Parts<T, S>,
    /// Whether what is to be sent has waited for others to say something as well.
    waited: bool,
}

/// What takes part in a turn.
struct Parts<T, S: Answers> {
    state: State<Gather<FloodGuard<T>>>,
    /// What the end of a turn sends.
    out: Gather<FloodGuard<T>>,
    /// Unconstrained: what tokio lets one task do in a turn is not enough for so many, and those that it held back would be
    /// polled again for nothing. h2 takes no more from a stream than it has room for.
    streams: FuturesUnordered<Unconstrained<Stream<S>>>,
    /// Ends when the client does not answer. One at most: it is polled only when it was woken.
    pings: FuturesUnordered<BoxFuture<'static, ()>>,
    service: S,
    limits: Arc<StreamLimits>,
    activity: Arc<Activity>,
    /// Whether it is to end once its streams have.
    leaving: bool,
    /// Whether the client was told that it asks for too much.
    calmed: bool,
}

enum State<T> {
    Begins(Handshake<T, Bytes>),
    Open(server::Connection<T, Bytes>),
}

/// What a request comes as, and what answers it.
type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

impl<T: AsyncRead + AsyncWrite + Unpin, S: Answers> Http2<T, S> {
    /// A connection of which this has been read: a preface, and perhaps more.
    pub(super) fn new(
        io: T,
        read: Bytes,
        service: S,
        limits: Arc<StreamLimits>,
        activity: Arc<Activity>,
    ) -> Self {
        let (near, out) = Gather::pair(FloodGuard::new(io, read, Arc::clone(&activity)));
        let state = State::Begins(builder().handshake(near));
        let (streams, pings) = (FuturesUnordered::new(), FuturesUnordered::new());
        let (leaving, calmed) = (false, false);
        let parts = Parts { state, out, streams, pings, service, limits, activity, leaving, calmed };
        Self { turns: Turns::new(), parts, waited: false }
    }

    /// Takes a turn, and sends what was said in it, or in two.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Http2Error>> {
        let Self { turns, parts, .. } = self;
        if let Poll::Ready(ended) = turns.take(cx, || parts.poll(turns)) {
            if let Err(Http2Error::Flood) = ended {
                parts.activity.end_for(Limit::Flood);
            }
            return Poll::Ready(ended);
        }
        if parts.out.is_little() && !parts.streams.is_empty() && !mem::replace(&mut self.waited, true) {
            // What is ready by now may be for others of its streams, and then goes out with this.
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        }
        self.waited = false;
        // While it cannot be sent, requests are read nevertheless, and what resets them.
        match parts.out.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            _ => Poll::Pending,
        }
    }

    /// Asks the client to open no more streams; it ends once those that are open have.
    pub(super) fn leave(&mut self) {
        self.parts.leaving = true;
        if let State::Open(connection) = &mut self.parts.state {
            connection.graceful_shutdown();
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, S: Answers> Parts<T, S> {
    /// First the streams, for what they say is sent by the connection; then the connection, and with each request that it
    /// has brought the streams again.
    fn poll(&mut self, turns: &Turns) -> Poll<Result<(), Http2Error>> {
        let mut begun = 0;
        loop {
            if begun == BEGUN_AT_ONCE {
                turns.pause();
                return Poll::Pending;
            }
            if turns.streams.poll(|cx| self.poll_streams(cx)).is_ready() {
                return Poll::Ready(Err(Http2Error::Vanished));
            }
            match turns.connection.poll(|cx| self.poll_connection(cx))? {
                Poll::Ready(Some((request, reply))) => {
                    self.begin(request, reply);
                    begun += 1;
                }
                Poll::Ready(None) if self.calmed => return Poll::Ready(Err(Http2Error::Flood)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending if self.activity.ended_for() == Some(Limit::Flood) && !self.calmed => {
                    self.calm()
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Lets each stream that was woken have its say. Ready when the client has vanished.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.pings.poll_next_unpin(cx) == Poll::Ready(Some(())) {
            return Poll::Ready(());
        }
        while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(cx) {}
        Poll::Pending
    }

    /// The next request; `None`: there will be no other, for the connection has ended.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Accepted>, Http2Error>> {
        if let State::Begins(handshake) = &mut self.state {
            let mut connection = ready!(Pin::new(handshake).poll(cx)?);
            if let Some(client) = connection.ping_pong() {
                self.pings.push(Box::pin(self.limits.pings.vanished(client)));
            }
            if self.leaving {
                connection.graceful_shutdown();
            }
            self.state = State::Open(connection);
            // The pings' clock begins when they are first polled.
            cx.waker().wake_by_ref();
        }
        let State::Open(connection) = &mut self.state else { return Poll::Pending };
        let accepted = ready!(connection.poll_accept(cx));
        Poll::Ready(accepted.transpose().map_err(Http2Error::from))
    }

    /// A stream begins: with a request, which is answered from now on.
    fn begin(&mut self, request: Request<RecvStream>, reply: SendResponse<Bytes>) {
        let (mut parts, inward) = request.into_parts();
        let interim = Arc::<Interim>::default();
        parts.extensions.insert(Arc::clone(&interim));
        let (body, tunnel) = if parts.method == Method::CONNECT {
            let (to, end) = oneshot::channel();
            parts.extensions.insert(ClientStream::new(end));
            (RequestBody::empty(), Some(Opening { inward, to }))
        } else {
            let body = Received::new(inward, &parts.headers);
            (RequestBody::new(body.into(), time::now()), None)
        };
        // If there is none left, it is about to be refused, unless it is the one that waits.
        let _ = self.limits.memory.take(cost::STREAM);
        let stage = Stage::Asked(self.service.answer(Box::new(Request::from_parts(parts, body))));
        let (client, limits) = (self.activity.client(), Arc::clone(&self.limits));
        self.streams.push(unconstrained(Stream { client, limits, reply, interim, tunnel, stage }));
    }

    /// Tells the client that it asks for too much, and ends the connection, as h2 does with the floods that it finds itself.
    fn calm(&mut self) {
        self.calmed = true;
        if let State::Open(connection) = &mut self.state {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
    }
}

fn builder() -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .enable_connect_protocol()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // A larger list is answered with 431, one of four times the size ends the connection.
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buffer_size(STREAM_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(PROVOKED_RESETS));
    builder
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicUsize, Ordering},
        time::{Duration, Instant},
    };

    use futures_util::future::join_all;
    use h2::client::{ResponseFuture, SendRequest};
    use http::Response;
    use http_body_util::Full;
    use prometheus::IntCounter;
    use tokio::{
        io::{AsyncWriteExt as _, DuplexStream, ReadBuf},
        sync::{Barrier, mpsc},
    };

    use super::{super::frames::PREFACE, *};
    use crate::{
        memory::Memory,
        proxy::{
            client::{MinRate, answers::BoxRequest},
            http2::Pings,
        },
    };

    const PINGS: Pings = Pings { every: Duration::from_millis(10), patience: Duration::from_millis(200) };

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

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Serves a connection until it ends.
    async fn serve<A>(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        answer: impl Fn(BoxRequest) -> A + Send + 'static,
    ) -> Result<(), Http2Error>
    where
        A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let service = move |request| Box::pin(answer(request));
        let counter = || IntCounter::new("any", "any").unwrap();
        let (rate, memory) = (MinRate::default(), Arc::<Memory>::default());
        let limits = StreamLimits { rate, memory, slow: counter(), evicted: counter(), pings: PINGS };
        let mut connection = Http2::new(io, Bytes::new(), service, Arc::new(limits), Activity::begin());
        poll_fn(|cx| connection.poll(cx)).await
    }

    /// A client of a service; what is written to it is counted.
    async fn client<A>(
        writes: Arc<AtomicUsize>,
        answer: impl Fn(BoxRequest) -> A + Send + 'static,
    ) -> SendRequest<Bytes>
    where
        A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(serve(Writes(near, writes), answer));
        let (sender, connection) = h2::client::handshake(far).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn get(sender: &mut SendRequest<Bytes>, path: &str) -> ResponseFuture {
        let request = Request::get(format!("http://hello.demo{path}")).body(()).unwrap();
        sender.send_request(request, true).unwrap().0
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn responses_of_several_streams_go_out_together() {
        const STREAMS: usize = 10;
        let (writes, all) = (Arc::<AtomicUsize>::default(), Arc::new(Barrier::new(STREAMS)));
        let counted = Arc::clone(&writes);
        let mut sender = client(Arc::clone(&writes), move |_| {
            let (counted, all) = (Arc::clone(&counted), Arc::clone(&all));
            async move {
                if all.wait().await.is_leader() {
                    counted.store(0, Ordering::Relaxed);
                }
                Response::new(Full::new(Bytes::from_static(&[0; 4_000])))
            }
        })
        .await;
        let requests: Vec<_> = (0..STREAMS).map(|_| get(&mut sender, "/")).collect();
        for response in join_all(requests).await {
            let mut body = response.unwrap().into_body();
            while body.data().await.is_some() {}
        }
        let writes = writes.load(Ordering::Relaxed);
        assert!(writes < STREAMS / 2, "{writes}");
    }

    #[tokio::test]
    async fn a_response_waits_for_those_that_are_ready_as_soon() {
        let (writes, (held, mut asked)) = (Arc::<AtomicUsize>::default(), mpsc::unbounded_channel());
        let mut sender = client(Arc::clone(&writes), move |_| {
            let (go_on, told) = oneshot::channel::<()>();
            held.send(go_on).unwrap();
            async move {
                told.await.unwrap();
                Response::new(Full::default())
            }
        })
        .await;
        // What is said as the connection begins goes out with the first.
        let first = get(&mut sender, "/");
        asked.recv().await.unwrap().send(()).unwrap();
        assert!(first.await.is_ok());
        let responses = join_all([get(&mut sender, "/"), get(&mut sender, "/")]);
        let (one, other) = (asked.recv().await.unwrap(), asked.recv().await.unwrap());
        writes.store(0, Ordering::Relaxed);
        one.send(()).unwrap();
        // Runs when the connection has had its turn.
        tokio::spawn(async move { other.send(()).unwrap() });
        assert!(responses.await.iter().all(Result::is_ok));
        assert_eq!(writes.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_client_that_answers_no_ping_has_vanished() {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let served = tokio::spawn(serve(near, |_| async { Response::new(Full::default()) }));
        let (began, empty_settings) = (Instant::now(), [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        far.write_all(&[PREFACE.as_slice(), &empty_settings].concat()).await.unwrap();
        assert!(matches!(served.await.unwrap(), Err(Http2Error::Vanished)));
        assert!(began.elapsed() >= PINGS.every + PINGS.patience, "{:?}", began.elapsed());

        let mut sender = client(Arc::default(), |_| async { Response::new(Full::default()) }).await;
        tokio::time::sleep(2 * PINGS.patience).await;
        assert!(get(&mut sender, "/").await.is_ok(), "this one answers");
    }

    #[tokio::test]
    async fn a_panic_ends_one_request() {
        let both = Arc::new(Barrier::new(2));
        let mut sender = client(Arc::default(), move |request| {
            let both = Arc::clone(&both);
            async move {
                both.wait().await;
                assert_ne!(request.uri().path(), "/panic");
                Response::new(Full::default())
            }
        })
        .await;
        let (bad, good) = (get(&mut sender, "/panic"), get(&mut sender, "/"));
        assert_eq!(bad.await.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
        assert!(good.await.is_ok());
    }
}
