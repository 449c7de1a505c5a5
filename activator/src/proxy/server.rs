//! Client connections: accepted, bounded, and ended in order.
//!
//! hyper sets no clock by itself and no bound on connections; everything that a client could use up is
//! limited here.

use std::{
    convert::Infallible,
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use pilotlight_crds::UrlScheme;
use prometheus::IntGauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{either::Either, sync::CancellationToken};

use super::{
    Peer, Proxy,
    calm::Calm,
    framing::{MAX_FIELDS, MAX_HEAD},
    guard::{Guard, Tunnel},
};
use crate::tls::{Handshake, Tls};

/// Time for a client to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// HTTP/2: streams per connection, and bytes that a client may send ahead on one stream and on all of them: as
/// Envoy's guide for proxies at the edge has them.
const MAX_STREAMS: u32 = 200;
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
/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What the server may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most client connections at once, handshakes included; the next one waits.
    pub connections: usize,
}

/// What the ports of a process share: room for connections, and the end of all of them.
#[derive(Debug)]
pub struct Connections {
    room: Arc<Semaphore>,
    graceful: GracefulShutdown,
    stop: CancellationToken,
}

impl Connections {
    /// Connections are accepted until `stop`.
    pub fn new(limits: Limits, stop: CancellationToken) -> Self {
        let room = Arc::new(Semaphore::new(limits.connections));
        Self { room, graceful: GracefulShutdown::new(), stop }
    }

    /// What is needed to wait for the connections to end.
    pub fn into_graceful(self) -> GracefulShutdown {
        self.graceful
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

/// Who is at the other end of a connection, and how it was made.
#[derive(Debug)]
pub struct Caller {
    /// Its address.
    pub ip: IpAddr,
    /// The scheme by which it has reached us.
    pub scheme: UrlScheme,
    /// What its TLS handshake has agreed on, if it was with us.
    pub tls: Option<Handshake>,
}

type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

impl Front {
    /// Makes of an accepted socket what HTTP is spoken on; none if the handshake failed.
    async fn begin(&self, socket: TcpStream, ip: IpAddr) -> Option<(Stream, Caller)> {
        match self {
            Self::Plain(scheme) => Some((Either::Left(socket), Caller { ip, scheme: *scheme, tls: None })),
            Self::Tls(tls) => {
                // On the heap: a handshake is large, and every connection's task would have room for it.
                let (stream, handshake) = Box::pin(tls.accept(socket)).await?;
                let caller = Caller { ip, scheme: UrlScheme::Https, tls: Some(handshake) };
                Some((Either::Right(Box::new(stream)), caller))
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
            async move { Ok::<_, Infallible>(proxy.answer(request, &peer).await) }
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
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>, Data: Send> + Send + 'static,
{
    let Port { listener, front } = port;
    let (service_for, builder) = (Arc::new(service_for), Arc::new(builder()));
    loop {
        let accepted = tokio::select! {
            () = connections.stop.cancelled() => return,
            accepted = accept(&listener, &connections.room) => accepted,
        };
        let Some((socket, peer, permit)) = accepted else { continue };
        // Small answers must not wait for a full packet; a socket that refuses is about to fail anyway.
        let _ = socket.set_nodelay(true);
        let (front, builder, service_for) = (front.clone(), Arc::clone(&builder), Arc::clone(&service_for));
        let watcher = connections.graceful.watcher();
        // A task of its own from here on: a slow handshake keeps nobody else from being accepted.
        tokio::spawn(async move {
            let _permit = permit;
            let Some((stream, caller)) = front.begin(socket, peer.ip()).await else { return };
            let tunnel = Tunnel::default();
            let stream = TokioIo::new(Guard::new(Calm::new(stream), tunnel.clone()));
            let service = tunnel.watch(service_for(caller));
            let connection = builder.serve_connection_with_upgrades(stream, service);
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%peer, error, "a connection ended early");
            }
        });
    }
}

/// One open connection, for as long as it lives.
struct Open(IntGauge);

impl Open {
    fn count(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The next connection, once there is room for it. Ports that share the room do not keep it from each
/// other while nobody comes.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    match listener.accept().await {
        // The semaphore is never closed.
        Ok((socket, peer)) => Some((socket, peer, Arc::clone(room).acquire_owned().await.ok()?)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS);
    builder
        .http2()
        .timer(TokioTimer::new())
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
