//! Connections to one pod. Our own, over hyper's connection API, so that a request never waits for a
//! dial that another request gave up, and so that what was not sent comes back.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use hyper::{
    client::conn::{http1, http2},
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pilotlight_crds::Protocol;
use tokio::{net::TcpStream, runtime::Handle};

use super::connection::Connection;
use crate::{function::Pod, memory::Memory, proxy::tcp::Tcp};

/// Idle connections older than this are not used again. Below the keep-alive time of common servers
/// (Node.js closes after 5 s), so that a request rarely meets a closing connection.
const IDLE_LIMIT: Duration = Duration::from_secs(3);
/// A pod on a healthy network accepts within a millisecond; a dropped SYN is repeated by the kernel
/// only after a second, which is longer than trying another pod takes, or the same one again.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_millis(100);
/// HTTP/2 pings find pods that have vanished.
const PING_EVERY: Duration = Duration::from_secs(10);
/// HTTP/2: bytes that a pod may send ahead on one stream. On all of them together it may send any number: otherwise
/// a few clients that do not read would keep the window of everybody's connection shut.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// How long a pod may take to announce what it can.
const ANNOUNCEMENT_TIMEOUT: Duration = Duration::from_millis(500);
/// How often to look for a pod's first SETTINGS.
const ANNOUNCEMENT_EVERY: Duration = Duration::from_millis(1);
/// The most streams of a connection whose pod has not said yet how many it takes. No pod says so odd a
/// number; should one, it is as if it had said nothing.
const UNSETTLED: usize = 97;
/// The most that one connection buffers of a response's head.
const HEAD_BUFFER: usize = 64 * 1024;

/// Open connections that no request uses, and the memory for what comes on them.
#[derive(Debug)]
pub struct Pool(Arc<Mutex<Idle>>, Arc<Memory>);

#[derive(Debug, Default)]
struct Idle {
    /// And since when, the most recently used last.
    connections: VecDeque<(Connection, Instant)>,
    /// Whether a task drops those that are too old.
    swept: bool,
}

/// Why a pod could not be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The kernel said so.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Nobody answered in time.
    #[error("no answer within {DIAL_TIMEOUT:?}")]
    Timeout,
    /// The pod has ended, or its address has gone to another: whoever answers there is not meant.
    #[error("the pod has ended")]
    Ended,
    /// The HTTP handshake failed, which for HTTP/1 it does not.
    #[error("{0}")]
    Handshake(#[from] hyper::Error),
    /// It has taken the connection, and says nothing.
    #[error("no SETTINGS within {ANNOUNCEMENT_TIMEOUT:?}")]
    Silent,
    /// It serves HTTP/2 without extended CONNECT.
    #[error("the pod does not announce extended CONNECT")]
    NoTunnels,
}

impl Pool {
    /// No connections yet.
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        Self(Arc::default(), memory)
    }

    /// What a new connection is read from.
    pub(crate) fn stream(&self, stream: TcpStream) -> Tcp {
        Tcp::new(stream, Arc::clone(&self.1))
    }

    /// A connection that was used before and is still open. One that can carry more stays here as well.
    pub(super) async fn take(&self, protocol: Protocol, now: Instant) -> Option<Connection> {
        loop {
            let (mut connection, since) = lock(&self.0).connections.pop_back()?;
            if now.saturating_duration_since(since) >= IDLE_LIMIT || !connection.speaks(protocol) {
                continue;
            }
            if let Some(shared) = connection.shared() {
                self.put(shared);
            }
            if connection.is_ready().await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(crate) fn put(&self, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let mut idle = lock(&self.0);
        if connection.is_shared() {
            idle.connections.clear();
        }
        idle.connections.push_back((connection, Instant::now()));
        // Without a runtime everything is about to end anyway.
        if !idle.swept
            && let Ok(runtime) = Handle::try_current()
        {
            idle.swept = true;
            runtime.spawn(sweep(Arc::downgrade(&self.0)));
        }
    }

    /// Drops every idle connection.
    pub(crate) fn clear(&self) {
        let dropped = std::mem::take(&mut lock(&self.0).connections);
        drop(dropped);
    }
}

/// Closes what is too old to be used again, until there is nothing left: nobody drives an idle connection, so
/// nobody would see that the pod has closed it.
async fn sweep(pool: Weak<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(IDLE_LIMIT).await;
        let Some(pool) = pool.upgrade() else { return };
        let (mut idle, now) = (lock(&pool), Instant::now());
        let young = idle.connections.partition_point(|(_, since)| now.duration_since(*since) >= IDLE_LIMIT);
        let old: Vec<_> = idle.connections.drain(..young).collect();
        idle.swept = !idle.connections.is_empty();
        let more = idle.swept;
        drop(idle);
        drop(old);
        if !more {
            return;
        }
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a connection to a pod; over HTTP/2, `tunnel` says that it is for one.
///
/// # Errors
/// When the pod refuses, does not answer in time, has ended, or takes no tunnels.
pub(super) async fn connect(pod: &Pod, protocol: Protocol, tunnel: bool) -> Result<Connection, ConnectError> {
    let stream = pod.pool.stream(dial(pod).await?);
    if tunnel { for_tunnel(stream).await } else { adopt(stream, protocol).await }
}

async fn dial(pod: &Pod) -> Result<TcpStream, ConnectError> {
    if pod.has_ended() {
        return Err(ConnectError::Ended);
    }
    let dialled = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(pod.address)).await;
    let stream = dialled.map_err(|_| ConnectError::Timeout)??;
    // Its address may have gone to another meanwhile.
    if pod.has_ended() { Err(ConnectError::Ended) } else { Ok(stream) }
}

/// Makes an HTTP/2 connection for one extended CONNECT. A tunnel gets a connection of its own, as it would
/// with HTTP/1.1: a client that reads slowly then fills no window but its own.
///
/// # Errors
/// When the handshake fails, or the pod does not announce extended CONNECT (RFC 8441, section 3).
async fn for_tunnel(stream: Tcp) -> Result<Connection, ConnectError> {
    stream.get_ref().set_nodelay(true)?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .initial_max_send_streams(UNSETTLED)
        .handshake(TokioIo::new(stream))
        .await?;
    let announced = async move {
        loop {
            // Whatever the pod's first SETTINGS say, they change this number.
            let settled = connection.current_max_send_streams() != UNSETTLED;
            match connection.is_extended_connect_protocol_enabled() {
                true => return Ok(connection),
                false if settled => return Err(ConnectError::NoTunnels),
                false => {}
            }
            // hyper tells what was announced, but not when.
            tokio::time::sleep(ANNOUNCEMENT_EVERY).await;
        }
    };
    let announced = tokio::time::timeout(ANNOUNCEMENT_TIMEOUT, announced).await;
    let connection = announced.map_err(|_| ConnectError::Silent)??;
    tokio::spawn(async move { drop(connection.await) });
    Ok(Connection::http2(sender))
}

/// Makes of the end of an upgraded connection a reset, as far as it is one of HTTP/1.1.
pub(in crate::proxy) fn reset(end: Upgraded) {
    if let Ok(parts) = end.downcast::<TokioIo<Tcp>>() {
        // A socket that refuses is broken already.
        let _ = parts.io.inner().get_ref().set_zero_linger();
    }
}

/// Makes an HTTP connection of a TCP connection.
///
/// # Errors
/// When the handshake fails.
pub(crate) async fn adopt(stream: Tcp, protocol: Protocol) -> Result<Connection, ConnectError> {
    stream.get_ref().set_nodelay(true)?;
    let stream = TokioIo::new(stream);
    // A connection's own errors reach whoever waits for a response; without one nobody misses it.
    match protocol {
        Protocol::Http1 => {
            let (sender, connection) =
                http1::Builder::new().max_buf_size(HEAD_BUFFER).handshake(stream).await?;
            let driver = connection.with_upgrades();
            Ok(Connection::http1(sender, async move { drop(driver.await) }))
        }
        Protocol::H2c => {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_EVERY)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .handshake(stream)
                .await?;
            tokio::spawn(async move { drop(connection.await) });
            Ok(Connection::http2(sender))
        }
    }
}
