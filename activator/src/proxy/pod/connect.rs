//! New connections to pods: dialled, and begun with HTTP.

use std::time::Duration;

use hyper::{client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use pilotlight_crds::Protocol;
use tokio::net::TcpStream;

use super::{connection::Connection, http2::Http2};
use crate::{function::Pod, proxy::tcp::Tcp};

/// A pod on a healthy network accepts within a millisecond; a dropped SYN is repeated by the kernel
/// only after a second, which is longer than trying another pod takes, or the same one again.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_millis(100);
/// How long a pod may take to announce what it can.
const ANNOUNCEMENT_TIMEOUT: Duration = Duration::from_millis(500);
/// The most that one connection buffers of a response's head.
const HEAD_BUFFER: usize = 64 * 1024;

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
    /// HTTP/1 cannot begin.
    #[error("{0}")]
    Http1(#[from] hyper::Error),
    /// HTTP/2 cannot begin.
    #[error("{0}")]
    Http2(#[from] h2::Error),
    /// It has taken the connection, and says nothing.
    #[error("no SETTINGS within {ANNOUNCEMENT_TIMEOUT:?}")]
    Silent,
    /// It serves HTTP/2 without extended CONNECT.
    #[error("the pod does not announce extended CONNECT")]
    NoTunnels,
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
    let connection = Http2::begin(stream).await?;
    match tokio::time::timeout(ANNOUNCEMENT_TIMEOUT, connection.takes_tunnels()).await {
        Ok(true) => Ok(Connection::http2(connection)),
        Ok(false) => Err(ConnectError::NoTunnels),
        Err(_) => Err(ConnectError::Silent),
    }
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
    match protocol {
        Protocol::Http1 => {
            let (sender, connection) =
                http1::Builder::new().max_buf_size(HEAD_BUFFER).handshake(TokioIo::new(stream)).await?;
            let driver = connection.with_upgrades();
            // Its own errors reach whoever waits for a response; without one nobody misses it.
            Ok(Connection::http1(sender, async move { drop(driver.await) }))
        }
        Protocol::H2c => Ok(Connection::http2(Http2::begin(stream).await?)),
    }
}
