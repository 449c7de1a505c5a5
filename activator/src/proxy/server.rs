//! Client connections: accepted, bounded, and ended in order.
//!
//! hyper sets no clock by itself and no bound on connections; everything that a client could use up is
//! limited here.

use std::{convert::Infallible, error::Error, net::SocketAddr, sync::Arc, time::Duration};

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
use prometheus::IntGauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use super::{Peer, Proxy, calm::Calm};

/// Time for a client to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest head, and what a connection buffers of a body (hyper's own default is 400 KiB).
const HEAD_BUFFER: usize = 64 * 1024;
/// The most headers of a request.
const MAX_HEADERS: usize = 128;
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
    /// The most client connections at once; the next one waits to be accepted.
    pub connections: usize,
}

/// Serves the proxy until `stop`; returns what is needed to wait for the connections to end.
pub async fn serve(
    listener: TcpListener,
    proxy: Arc<Proxy>,
    limits: Limits,
    stop: CancellationToken,
) -> GracefulShutdown {
    serve_with(listener, limits, stop, move |peer: SocketAddr| {
        let proxy = Arc::clone(&proxy);
        let open = Open::count(proxy.metrics.connections.clone());
        let peer = Arc::new(Peer::new(peer.ip(), proxy.scheme, &proxy.trusted));
        service_fn(move |request: Request<Incoming>| {
            let (proxy, peer, _open) = (Arc::clone(&proxy), Arc::clone(&peer), &open);
            async move { Ok::<_, Infallible>(proxy.answer(request, &peer).await) }
        })
    })
    .await
}

/// Serves whatever `service_for` makes for a peer, within the same bounds.
pub async fn serve_with<S, B>(
    listener: TcpListener,
    limits: Limits,
    stop: CancellationToken,
    service_for: impl Fn(SocketAddr) -> S,
) -> GracefulShutdown
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>, Data: Send> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(limits.connections));
    let builder = builder();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return graceful,
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((stream, peer, permit)) = accepted else { continue };
        // Small answers must not wait for a full packet; a socket that refuses is about to fail anyway.
        let _ = stream.set_nodelay(true);
        let connection =
            builder.serve_connection_with_upgrades(TokioIo::new(Calm::new(stream)), service_for(peer));
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, error, "a connection ended early");
            }
            drop(permit);
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

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
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
        .max_buf_size(HEAD_BUFFER)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // A larger list is answered with 431, one of four times the size ends the connection.
        .max_header_list_size(HEAD_BUFFER as u32)
        .max_send_buf_size(STREAM_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(PROVOKED_RESETS);
    builder
}
