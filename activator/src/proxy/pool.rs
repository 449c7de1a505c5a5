//! Connections to one pod. Our own, over hyper's connection API, so that a request never waits for a
//! dial that another request gave up, and so that what was not sent comes back.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::body::RequestBody;

/// Idle connections older than this are not used again. Below the keep-alive time of common servers
/// (Node.js closes after 5 s), so that a request rarely meets a closing connection.
const IDLE_LIMIT: Duration = Duration::from_secs(3);
/// A pod on a healthy network accepts within a millisecond; a dropped SYN is repeated by the kernel
/// after a second, which is longer than trying another pod takes.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// The most that one connection buffers of a response's head.
const HEAD_BUFFER: usize = 64 * 1024;

/// A connection that can carry one request at a time.
pub(crate) type Connection = SendRequest<RequestBody>;

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// Open connections that no request uses, the most recently used last.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<Vec<Idle>>,
}

/// Why a pod could not be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The kernel said so.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Nobody answered in time.
    #[error("no answer within {CONNECT_TIMEOUT:?}")]
    Timeout,
    /// The HTTP handshake failed, which for HTTP/1 it does not.
    #[error("{0}")]
    Handshake(#[from] hyper::Error),
}

impl Pool {
    /// A connection that was used before and is still open.
    pub(crate) async fn take(&self) -> Option<Connection> {
        loop {
            let Idle { mut connection, since } = self.lock().pop()?;
            // The connection's task may not have seen yet that the last response has ended.
            if since.elapsed() < IDLE_LIMIT && connection.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(crate) fn put(&self, connection: Connection) {
        if !connection.is_closed() {
            let mut idle = self.lock();
            idle.retain(|idle| idle.since.elapsed() < IDLE_LIMIT);
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    /// Drops every idle connection.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a connection to a pod.
///
/// # Errors
/// When the pod refuses or does not answer in time.
pub(crate) async fn connect(address: SocketAddr) -> Result<Connection, ConnectError> {
    let dialled = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    adopt(dialled.map_err(|_| ConnectError::Timeout)??).await
}

/// Makes an HTTP connection of a TCP connection.
///
/// # Errors
/// When the handshake fails.
pub(crate) async fn adopt(stream: TcpStream) -> Result<Connection, ConnectError> {
    stream.set_nodelay(true)?;
    let (sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_BUFFER).handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Its errors reach whoever waits for a response; without one nobody misses the connection.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}
