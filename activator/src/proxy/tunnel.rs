//! Upgraded connections, such as WebSocket's: bytes in both directions, until one side ends or both are
//! silent. The slot is occupied for as long.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use http::{Response, header};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{body::ResponseBody, headers, respond::ProxyError};
use crate::function::{Slot, Timeouts};

/// Bytes that one direction keeps in memory.
const BUFFER: usize = 8 * 1024;

/// Passes a pod's `101 Switching Protocols` on and joins the two connections.
pub(super) fn switch(
    mut response: Response<Incoming>,
    client: Option<OnUpgrade>,
    slot: Slot,
    timeouts: Timeouts,
    until: Instant,
) -> Result<Response<ResponseBody>, ProxyError> {
    let client = client.ok_or(ProxyError::Upgrade("the pod switched protocols unasked"))?;
    let protocol = headers::upgrade(response.headers());
    let pod = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let joined = async {
            let (client, pod) = tokio::try_join!(client, pod)?;
            join(client, pod, timeouts.idle).await.map_err(Into::into)
        };
        let joined: Result<Result<(), Box<dyn std::error::Error + Send + Sync>>, _> =
            tokio::time::timeout_at(until.into(), joined).await;
        if let Ok(Err(error)) = joined {
            tracing::debug!(error, "an upgraded connection broke");
        }
        drop(slot);
    });
    let (mut parts, _) = response.into_parts();
    headers::to_client(&mut parts.headers);
    if let Some(protocol) = protocol {
        parts.headers.insert(header::CONNECTION, http::HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol);
    }
    Ok(Response::from_parts(parts, ResponseBody::empty()))
}

async fn join(client: Upgraded, pod: Upgraded, idle: Duration) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_pod, mut to_pod) = tokio::io::split(TokioIo::new(pod));
    let moved = Moved::new();
    let up = copy(&mut from_client, &mut to_pod, &moved);
    let down = copy(&mut from_pod, &mut to_client, &moved);
    let both = async { tokio::try_join!(up, down).map(|_| ()) };
    tokio::select! {
        ended = both => ended,
        () = moved.silent_for(idle) => Err(io::Error::new(io::ErrorKind::TimedOut, "silent for timeouts.idle")),
    }
}

/// When bytes last moved in either direction.
#[derive(Debug)]
struct Moved {
    began: Instant,
    millis: AtomicU64,
}

impl Moved {
    fn new() -> Self {
        Self { began: Instant::now(), millis: AtomicU64::new(0) }
    }

    fn note(&self) {
        self.millis.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    async fn silent_for(&self, idle: Duration) {
        loop {
            let silent_at = self.began + Duration::from_millis(self.millis.load(Ordering::Relaxed)) + idle;
            if silent_at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(silent_at.into()).await;
        }
    }
}

/// Copies in one direction, and passes the end on.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    moved: &Moved,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        moved.note();
    }
}
