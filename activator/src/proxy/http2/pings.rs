//! Pings (RFC 9113, section 6.7) find peers that have vanished: without them, a connection that nobody writes to would
//! stay open for ever.

use std::{future::poll_fn, time::Duration};

use h2::{Ping, PingPong};

/// How often a peer is asked, and how long it may take to answer.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Pings {
    pub(in crate::proxy) every: Duration,
    pub(in crate::proxy) patience: Duration,
}

impl Pings {
    /// For clients; hyper and gRPC wait as long for an answer.
    pub(in crate::proxy) const TO_CLIENTS: Self =
        Self { every: Duration::from_secs(30), patience: Duration::from_secs(20) };
    /// For pods: requests wait for what they say.
    pub(in crate::proxy) const TO_PODS: Self = Self { every: Duration::from_secs(10), ..Self::TO_CLIENTS };

    /// Asks the peer now and then, and returns when it has not answered.
    pub(in crate::proxy) async fn vanished(self, mut peer: PingPong) {
        loop {
            tokio::time::sleep(self.every).await;
            // It is refused only while another is under way, or when the connection has ended.
            if peer.send_ping(Ping::opaque()).is_err() {
                continue;
            }
            if tokio::time::timeout(self.patience, poll_fn(|cx| peer.poll_pong(cx))).await.is_err() {
                return;
            }
        }
    }
}
