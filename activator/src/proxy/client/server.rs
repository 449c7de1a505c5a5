//! Client connections: accepted, bounded, and ended in order.
//!
//! hyper sets no clock by itself and no bound on connections; everything that a client could use up is
//! limited here.

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use pilotlight_crds::UrlScheme;
use prometheus::IntCounterVec;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{either::Either, sync::CancellationToken};

use super::{
    activity::{Activity, Clocks, Counted, Limit},
    answers::{Answers, BoxRequest},
    clients::Clients,
    connection::{Begins, Connection, Stream},
    drive::{End, drive},
    pace::ReaderPace,
    rate::MinRate,
    room::{Occupied, Room},
    socket::Socket,
    streams::StreamLimits,
};
use crate::{
    function::Process,
    memory::{Memory, cost},
    metrics::{Metrics, Open},
    proxy::{Caller, Peer, Proxy, body::RequestBody, http2::Pings},
    time,
    tls::Tls,
};

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

    /// What is of them the streams'.
    fn streams(&self) -> StreamLimits {
        let reached = |limit| self.reached.with_label_values(&[limit]);
        let (slow, evicted) = (reached("slow-stream"), reached("memory"));
        let (rate, memory, pings) = (self.rate, Arc::clone(&self.memory), Pings::TO_CLIENTS);
        StreamLimits { rate, memory, slow, evicted, pings }
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
pub fn serve(port: Port, proxy: Arc<Proxy>, connections: &Connections) -> BoxFuture<'_, ()> {
    // Not an async function: what those do is compiled with the program that runs them, under its name, and then the
    // [profile](../../../../docs/adr/0009-profile-guided.md) would be for one program only.
    let served = serve_with(port, connections, move |caller: Caller| {
        let proxy = Arc::clone(&proxy);
        let open = Open::count(proxy.metrics.connections.clone());
        let peer = Arc::new(Peer::new(caller, &proxy.trusted));
        move |request: BoxRequest| {
            let (proxy, peer, _open) = (Arc::clone(&proxy), Arc::clone(&peer), &open);
            let began = time::now();
            // On the heap: every connection would have room for it, also an idle one.
            Box::pin(async move { proxy.answer(request, &peer, began).await })
        }
    });
    Box::pin(served)
}

/// Serves whatever `service_for` makes for a caller, within the same bounds: accept, begin (a handshake,
/// where there is one), and then HTTP until the connection ends.
pub async fn serve_with<S, A, B>(
    port: Port,
    connections: &Connections,
    service_for: impl Fn(Caller) -> S + Send + Sync + 'static,
) where
    S: Fn(Box<Request<RequestBody>>) -> A + Send + 'static,
    A: Future<Output = Response<B>> + Send + Unpin + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let Port { listener, front } = port;
    let (service_for, streams) = (Arc::new(service_for), Arc::new(connections.limits.streams()));
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
        let (front, streams, service_for) = (front.clone(), Arc::clone(&streams), Arc::clone(&service_for));
        // A task of its own from here on: a slow handshake keeps nobody else from being accepted.
        connections.clients.spawn(move |leave| async move {
            let Some((stream, caller)) = front.begin(socket, peer).await else { return };
            let interim = Arc::clone(&caller.interim);
            let connection = Connection::new(Begins {
                io: stream,
                service: counted(service_for(caller), Arc::clone(&activity)),
                limits: streams,
                activity: Arc::clone(&activity),
                interim,
                read: BytesMut::new(),
            });
            let end = drive(connection, &activity, &limits.clocks, &limits.memory, leave).await;
            if let Some(limit) = limit(&end, activity.ended_for()) {
                limits.reached.with_label_values(&[limit]).inc();
            }
            tracing::debug!(%peer, ?end, "a connection ended");
        });
    }
}

/// Counts the requests that are answered, from their head to the end of the response's body. Behind `101 Switching
/// Protocols` comes no HTTP.
fn counted<S: Answers<Answer: Send + 'static>>(
    service: S,
    activity: Arc<Activity>,
) -> impl Answers<Answer: Send + 'static, Body = Counted<S::Body>> {
    move |mut request: BoxRequest| {
        let open = activity.request();
        // An HTTP/2 connection whose only stream is a tunnel is not idle.
        if request.method() == Method::CONNECT {
            request.extensions_mut().insert(open.clone());
        }
        // No async block: it would have room for the answer twice.
        service.answer(request).map(|response| {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                open.tunnel();
            }
            response.map(|body| Counted { body, _open: open })
        })
    }
}

/// The limit that has ended a connection, as the metric names it.
fn limit(end: &End, ended_for: Option<Limit>) -> Option<&'static str> {
    match (end, ended_for) {
        (End::Idle, _) => Some("idle"),
        (End::SlowHead, _) => Some("slow-head"),
        (_, Some(Limit::Flood)) => Some("flood"),
        (_, Some(Limit::SlowReader)) => Some("slow-reader"),
        (_, Some(Limit::Evicted)) => Some("memory"),
        (End::Closed | End::Broken, None) => None,
    }
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
