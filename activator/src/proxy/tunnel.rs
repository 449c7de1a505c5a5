//! Upgraded connections, such as WebSocket's: bytes in both directions, until both sides have ended, one
//! breaks off, or both are silent. The slot is occupied for as long.
//!
//! `timeouts.total` counts until the connection is upgraded and no further: a WebSocket lives for as long as
//! its two ends want it to, and only silence tells that one of them has gone.

mod end;
mod flow;
mod frames;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::{
    future::poll_fn,
    io,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};

pub(super) use self::end::{ClientStream, Promised};
use self::{
    end::End,
    flow::{Farewell, Flow},
};
use super::{
    client::{self, OpenRequest},
    pod,
};
use crate::{function::Slot, metrics::Open};

/// For the last frames, once a connection is to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The upgraded connections of the process. hyper forgets a connection when it is upgraded, so whoever
/// waits for connections to end has to wait for these as well.
#[derive(Clone, Debug)]
pub struct Tunnels {
    open: TaskTracker,
    goodbye: CancellationToken,
    gauge: IntGauge,
}

/// The two ends of a connection that is being upgraded.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) client: Promised,
    pub(super) pod: Promised,
    /// Whether what they speak is WebSocket: then they can be told that the connection ends.
    pub(super) websocket: bool,
    /// The client's stream, if it is one of HTTP/2.
    pub(super) stream: Option<OpenRequest>,
}

impl Tunnels {
    /// None yet; `gauge` shows how many there are.
    pub fn new(gauge: IntGauge) -> Self {
        Self { open: TaskTracker::new(), goodbye: CancellationToken::new(), gauge }
    }

    /// Joins two connections once both are upgraded, which must be by `until`.
    pub(super) fn join(&self, ends: Ends, slot: Slot, idle: Duration, until: Instant) {
        let Self { open, goodbye, gauge } = self.clone();
        open.spawn(async move {
            let _open = Open::count(gauge);
            let upgraded = async { tokio::try_join!(ends.client.kept(), ends.pod.kept()) };
            match tokio::time::timeout_at(until.into(), upgraded).await {
                Ok(Ok((client, pod))) => {
                    if let Err(error) = Tunnel::new(client, pod, ends.websocket).run(idle, goodbye).await {
                        tracing::debug!(%error, "an upgraded connection broke");
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "a connection was not upgraded"),
                Err(_) => tracing::debug!("a connection was not upgraded in time"),
            }
            drop((slot, ends.stream));
        });
    }

    /// Ends them all: WebSocket connections with a close frame, others without a word.
    pub fn say_goodbye(&self) {
        self.goodbye.cancel();
    }

    /// Waits until there are none and there will be none.
    pub async fn ended(&self) {
        self.open.close();
        self.open.wait().await;
    }
}

struct Tunnel<S> {
    client: S,
    pod: S,
    up: Flow,
    down: Flow,
    websocket: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tunnel<S> {
    fn new(client: S, pod: S, websocket: bool) -> Self {
        Self { client, pod, up: Flow::new(websocket), down: Flow::new(websocket), websocket }
    }

    async fn pass_until_told(&mut self, idle: Duration, goodbye: CancellationToken) -> io::Result<()> {
        let moved = Moved::new();
        let why = tokio::select! {
            ended = self.pass(&moved) => return ended,
            () = moved.silent_for(idle) => "silent for timeouts.idle",
            () = goodbye.cancelled() => "the activator ends",
        };
        if self.websocket {
            self.up.end_with(Farewell::ToPod);
            self.down.end_with(Farewell::ToClient);
            if let Ok(ended) = tokio::time::timeout(LAST_WORDS, self.pass(&moved)).await {
                return ended;
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }

    async fn pass(&mut self, moved: &Moved) -> io::Result<()> {
        poll_fn(|cx| self.poll_pass(cx, moved)).await
    }

    fn poll_pass(&mut self, cx: &mut Context<'_>, moved: &Moved) -> Poll<io::Result<()>> {
        let Self { client, pod, up, down, .. } = self;
        let before = up.passed() + down.passed();
        let up_ended = up.poll(cx, client, pod)?.is_ready();
        let down_ended = down.poll(cx, pod, client)?.is_ready();
        if up.passed() + down.passed() != before {
            moved.note();
        }
        match up_ended && down_ended {
            true => Poll::Ready(up.refused().or_else(|| down.refused()).map_or(Ok(()), Err)),
            false => Poll::Pending,
        }
    }
}

impl Tunnel<End> {
    /// Passes bytes until there is an end; one that is not orderly is passed on as a reset.
    async fn run(mut self, idle: Duration, goodbye: CancellationToken) -> io::Result<()> {
        let ended = self.pass_until_told(idle, goodbye).await;
        if ended.is_err() {
            // A WebSocket that ends without a close frame is known to be cut. A reset would take with it what
            // the client has not got yet. A stream is reset when it is dropped.
            if let (Either::Left(client), false) = (self.client, self.websocket) {
                client::reset(client.into_inner());
            }
            if let Either::Left(pod) = self.pod {
                pod::reset(pod.into_inner());
            }
        }
        ended
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};

    use super::*;

    /// One end of a pipe, whose other end has gone if `deaf`: it takes nothing.
    struct End {
        pipe: tokio::io::DuplexStream,
        deaf: bool,
    }

    impl AsyncRead for End {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.pipe).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for End {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            match self.deaf {
                true => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                false => Pin::new(&mut self.pipe).poll_write(cx, bytes),
            }
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.pipe).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.pipe).poll_shutdown(cx)
        }
    }

    fn end(deaf: bool) -> (tokio::io::DuplexStream, End) {
        let (far, pipe) = tokio::io::duplex(1024);
        (far, End { pipe, deaf })
    }

    #[tokio::test]
    async fn the_last_words_of_a_pod_that_has_gone_arrive() {
        let ((mut client, near_client), (mut pod, near_pod)) = (end(false), end(true));
        client.write_all(b"more").await.unwrap();
        pod.write_all(b"last words").await.unwrap();
        drop(pod);
        let mut tunnel = Tunnel::new(near_client, near_pod, false);
        let ended = tunnel.pass(&Moved::new()).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe, "an end that is not orderly");
        drop(tunnel);
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"last words");
    }
}
