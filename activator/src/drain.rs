//! Going away well: unready, serve on while endpoints propagate, stop accepting, finish, end.
//!
//! Held requests are not passed on to another activator: the answer would still have to come through this
//! process, so nothing would be won. They wait on here, and whoever still waits at the very end is told so.

use std::{sync::Arc, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    function::Process,
    index::Index,
    proxy::{Clients, Tunnels},
};

/// For last answers and close frames when the time is over. The chart's grace period has room for it.
const LAST_WORDS: Duration = Duration::from_secs(2);

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

/// What may still be under way once nothing is accepted any longer.
#[derive(Debug)]
pub struct Rest {
    /// Client connections.
    pub clients: Clients,
    /// Upgraded connections, which the former do not know of.
    pub tunnels: Tunnels,
    /// The functions, with the requests that they hold.
    pub index: Arc<Index>,
}

/// Asks clients to close their connections and waits until they have. When the time is over, held
/// requests are turned away and WebSocket connections closed with status 1001. Returns whether all ended.
pub async fn finish(rest: Rest, timeout: Duration) -> bool {
    let Rest { clients, tunnels, index } = rest;
    tracing::info!(open = clients.count(), ?timeout, "no longer accepting: waiting for requests in flight");
    let mut all = std::pin::pin!(async { tokio::join!(clients.shutdown(), tunnels.ended()) });
    if tokio::time::timeout(timeout, all.as_mut()).await.is_ok() {
        tracing::info!("all requests have ended");
        return true;
    }
    index.turn_away();
    tunnels.say_goodbye();
    let ended = tokio::time::timeout(LAST_WORDS, all).await.is_ok();
    match ended {
        true => tracing::info!("the time is over: what was held or upgraded has been told"),
        false => tracing::warn!(?timeout, "the time is over: requests in flight are cut"),
    }
    ended
}
