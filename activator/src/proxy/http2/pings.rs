//! Pings (RFC 9113, section 6.7) find peers that have vanished: without them, a connection that nobody writes to would
//! stay open for ever.

use std::{future::poll_fn, time::Duration};

use h2::{Ping, PingPong};

/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks the peer now and then, and returns when it has not answered.
pub(in crate::proxy) async fn vanished(mut pings: PingPong, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        // It is refused only while another is under way, or when the connection has ended.
        if pings.send_ping(Ping::opaque()).is_err() {
            continue;
        }
        if tokio::time::timeout(PATIENCE, poll_fn(|cx| pings.poll_pong(cx))).await.is_err() {
            return;
        }
    }
}
