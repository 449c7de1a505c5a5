//! Client connections: accepted, bounded, and ended in order.
//!
//! hyper sets no clock by itself and no bound on connections; everything that a client could use up is
//! limited here.

use std::{convert::Infallible, error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::TryFutureExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioTimer, server::conn::auto::Builder};
use pilotlight_crds::UrlScheme;
use prometheus::IntCounterVec;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{either::Either, sync::CancellationToken};

use super::{
    activity::{Activity, Clocks, Counted, End, drive},
    clients::Clients,
    framing::{MAX_FIELDS, MAX_HEAD},
    pace::ReaderPace,
    rate::MinRate,
    room::{Occupied, Room},
    socket::{Evicted, SlowReader, Socket},
    stack::{Stream, layered},
    streams::{Ended, Streams},
};
use crate::{
    function::Process,
    memory::{Memory, cost},
    metrics::{Metrics, Open},
    proxy::{Caller, Peer, Proxy, body::RequestBody},
    time,
    tls::Tls,
};

/// HTTP/2: streams per connection, and bytes that a client may send ahead on one stream and on all of them. The
/// windows are those of Envoy's guide for proxies at the edge.
const MAX_STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// HTTP/2: what is buffered of a response on its way to the client, for each stream (hyper's own default is
/// 400 KiB, which is 80 MiB for a connection whose client reads nothing).
const STREAM_BUFFER: usize = 64 * 1024;
/// HTTP/2: streams that a client may have reset before we have looked at them. More at once is a rapid reset
/// (CVE-2023-44487), and ends the connection with ENHANCE_YOUR_CALM. h2's own default; here so that it stays.
const PENDING_RESETS: usize = 20;
/// HTTP/2: streams of a connection that we may have to reset or refuse because of what the client does there
/// (CVE-2025-8671, "MadeYouReset"). A client that knows the protocol needs none, except for the streams that
/// it opens before it has seen how many there may be.
const PROVOKED_RESETS: usize = 200;
/// HTTP/2 pings find clients that have vanished.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Connections that may wait to be accepted: as many as the kernel allows (`net.core.somaxconn`). A client that finds the
/// queue full hears nothing, and comes again after a second, behind those who have come meanwhile.
const BACKLOG: i32 = i32::MAX;
/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What the server may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most client connections at once, handshakes and tunnels included; the next one waits, and those that have done
    /// nothing for longest end.
    pub connections: usize,
    /// The most from one address; 0: no limit.
    pub from_one_address: usize,
    /// How long they may do nothing.
    pub clocks: Clocks,
    /// How fast clients have to read.
    pub rate: MinRate,
    /// Whether there is memory for more.
    pub memory: Arc<Memory>,
    /// Counts what reaches a limit, by its name.
    pub reached: IntCounterVec,
}

impl Limits {
    /// So many connections of a process, from any address, with the clocks and the rate that are the default.
    pub fn new(connections: usize, process: &Process, metrics: &Metrics) -> Self {
        Self {
            connections,
            from_one_address: 0,
            clocks: Clocks::default(),
            rate: MinRate::default(),
            memory: Arc::clone(process.memory()),
            reached: metrics.limit_reached.clone(),
        }
    }
}

/// What the ports of a process share: room for connections, and the end of all of them.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    room: Room,
    clients: Clients,
    stop: CancellationToken,
}

impl Connections {
    /// Connections are accepted until `stop`.
    pub fn new(limits: Limits, stop: CancellationToken) -> Self {
        let room = Room::new(limits.connections, limits.from_one_address);
        Self { limits, room, clients: Clients::default(), stop }
    }

    /// What is needed to wait for the connections to end.
    pub fn into_clients(self) -> Clients {
        self.clients
    }
}

/// A port on which clients connect.
#[derive(Debug)]
pub struct Port {
    /// Where connections come in.
    pub listener: TcpListener,
    /// How each begins.
    pub front: Front,
}

/// How the connections of a port begin.
#[derive(Clone, Debug)]
pub enum Front {
    /// With HTTP. Callers reach the port by this scheme: https if something in front of it ends TLS.
    Plain(UrlScheme),
    /// With a TLS handshake.
    Tls(Arc<Tls>),
}

impl Front {
    /// Makes of an accepted socket what HTTP is spoken on; none if the handshake failed.
    async fn begin(&self, socket: Socket, peer: SocketAddr) -> Option<(Stream, Caller)> {
        match self {
            Self::Plain(scheme) => Some((Either::Left(socket), Caller::new(peer.ip(), *scheme, None))),
            Self::Tls(tls) => {
                // On the heap: a handshake is large, and every connection's task would have room for it.
                let (stream, handshake) = Box::pin(tls.accept(socket, peer)).await?;
                Some((
                    Either::Right(Box::new(stream)),
                    Caller::new(peer.ip(), UrlScheme::Https, Some(handshake)),
                ))
            }
        }
    }
}

/// Serves the proxy on a port until it is to stop.
pub async fn serve(port: Port, proxy: Arc<Proxy>, connections: &Connections) {
    serve_with(port, connections, move |caller: Caller| {
        let proxy = Arc::clone(&proxy);
        let open = Open::count(proxy.metrics.connections.clone());
        let peer = Arc::new(Peer::new(caller, &proxy.trusted));
        service_fn(move |request: Request<Incoming>| {
            let (proxy, peer, _open) = (Arc::clone(&proxy), Arc::clone(&peer), &open);
            let began = time::now();
            // On the heap: it would be moved from each future on its way into the next.
            let request = Box::new(request.map(|body| RequestBody::new(body, began)));
            // And this one every connection would have room for, also an idle one.
            Box::pin(async move { Ok::<_, Infallible>(proxy.answer(request, &peer, began).await) })
        })
    })
    .await;
}

/// Serves whatever `service_for` makes for a caller, within the same bounds: accept, begin (a handshake,
/// where there is one), and then HTTP until the connection ends.
pub async fn serve_with<S, B>(
    port: Port,
    connections: &Connections,
    service_for: impl Fn(Caller) -> S + Send + Sync + 'static,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>, Data: Send> + Send + Unpin + 'static,
{
    let Port { listener, front } = port;
    let (service_for, builder) = (Arc::new(service_for), Arc::new(builder(&connections.limits)));
    // A listener that refuses goes on with fewer.
    let _ = SockRef::from(&listener).listen(BACKLOG);
    loop {
        let accepted = tokio::select! {
            () = connections.stop.cancelled() => return,
            accepted = accept(&listener, connections) => accepted,
        };
        let Some((stream, peer, room)) = accepted else { continue };
        let activity = Activity::begin();
        let limits = connections.limits.clone();
        let pace = ReaderPace::new(limits.rate, Arc::clone(&limits.memory));
        let socket = Socket::new(stream, Arc::clone(&limits.memory), pace, Arc::clone(&activity), room);
        let (front, builder, service_for) = (front.clone(), Arc::clone(&builder), Arc::clone(&service_for));
        // A task of its own from here on: a slow handshake keeps nobody else from being accepted.
        connections.clients.spawn(move |leave| async move {
            let Some((stream, caller)) = front.begin(socket, peer).await else { return };
            let stream = layered(stream, &activity, &caller.interim);
            let service = counted(service_for(caller), Arc::clone(&activity));
            let connection = builder.serve_connection_with_upgrades(stream, service);
            let end = drive(connection, &activity, &limits.clocks, &limits.memory, leave).await;
            if let Some(limit) = limit(&end) {
                limits.reached.with_label_values(&[limit]).inc();
            }
            tracing::debug!(%peer, ?end, "a connection ended");
        });
    }
}

/// A service whose requests are counted, from their head to the end of the response's body. Behind `101
/// Switching Protocols` comes no HTTP.
fn counted<S, B>(
    service: S,
    activity: Arc<Activity>,
) -> impl Service<Request<Incoming>, Response = Response<Counted<B>>, Error = Infallible, Future: Send + 'static>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body + Unpin,
{
    service_fn(move |mut request: Request<Incoming>| {
        let open = activity.request();
        // An HTTP/2 connection whose only stream is a tunnel is not idle.
        if request.method() == Method::CONNECT {
            request.extensions_mut().insert(open.clone());
        }
        // No async block: it would have room for the answer twice.
        service.call(request).map_ok(|response| {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                open.tunnel();
            }
            response.map(|body| Counted { body, open })
        })
    })
}

/// The limit that has ended a connection, as the metric names it.
fn limit(end: &End<Box<dyn Error + Send + Sync>>) -> Option<&'static str> {
    let error = match end {
        End::Closed => return None,
        End::Idle => return Some("idle"),
        End::SlowHead => return Some("slow-head"),
        End::Broken(error) => error,
    };
    let mut cause: Option<&(dyn Error + 'static)> = Some(&**error);
    while let Some(error) = cause {
        let calm = |error: &h2::Error| error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
        let slow = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<SlowReader>());
        if error.downcast_ref().is_some_and(calm) {
            return Some("flood");
        }
        let evicted = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<Evicted>());
        if error.downcast_ref().is_some_and(slow) {
            return Some("slow-reader");
        }
        if error.downcast_ref().is_some_and(evicted) {
            return Some("memory");
        }
        cause = error.source();
    }
    None
}

/// The next connection, once there is room and memory for it. Ports that share the room do not keep it from
/// each other while nobody comes.
async fn accept(
    listener: &TcpListener,
    Connections { limits, room, .. }: &Connections,
) -> Option<(TcpStream, SocketAddr, Occupied)> {
    while !limits.memory.has_more() {
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
    match listener.accept().await {
        Ok((stream, peer)) => {
            let occupied = room.enter(peer.ip(), &limits.memory).await;
            if occupied.is_none() {
                limits.reached.with_label_values(&["address"]).inc();
            }
            limits.memory.took(cost::CONNECTION);
            occupied.map(|occupied| (stream, peer, occupied))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn builder(limits: &Limits) -> Builder<Streams> {
    let reached = |limit| limits.reached.with_label_values(&[limit]);
    let ended = Ended { slow: reached("slow-stream"), evicted: reached("memory") };
    let mut builder = Builder::new(Streams::new(limits.rate, Arc::clone(&limits.memory), ended));
    builder
        .http1()
        .timer(TokioTimer::new())
        // `Clocks` has this for both protocols, without a timer for each request.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .keep_alive_interval(PING_EVERY)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // A larger list is answered with 431, one of four times the size ends the connection.
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buf_size(STREAM_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(PROVOKED_RESETS);
    builder
}
