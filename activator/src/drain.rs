//! Going away well: unready, serve on while endpoints propagate, stop accepting, finish, end.

use std::{sync::Arc, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{function::Process, proxy::Clients};

/// How long the parts of going away may take.
#[derive(Clone, Copy, Debug)]
pub struct DrainTimes {
    /// How long to go on accepting while endpoints propagate.
    pub delay: Duration,
    /// How long requests in flight may take after that.
    pub timeout: Duration,
}

/// Waits for SIGTERM (or Ctrl-C), then goes on serving for the delay, and then says `stop`. A second
/// signal cuts the delay short.
///
/// # Errors
/// When signals cannot be received.
pub async fn until_told(
    process: Arc<Process>,
    delay: Duration,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
    process.set_leaving();
    tracing::info!(?delay, "told to end: unready, still serving");
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    Ok(())
}

/// Waits until the connections have ended, or the time is over. Returns whether all did.
pub async fn finish(connections: Clients, timeout: Duration) -> bool {
    let open = connections.count();
    tracing::info!(open, ?timeout, "no longer accepting: waiting for requests in flight");
    let ended = tokio::time::timeout(timeout, connections.shutdown()).await.is_ok();
    match ended {
        true => tracing::info!("all requests have ended"),
        false => tracing::warn!(?timeout, "the time is over: requests in flight are cut"),
    }
    ended
}
