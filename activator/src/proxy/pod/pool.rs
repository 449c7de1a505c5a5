//! Connections to one pod that no request uses. Our own pool, over hyper's connection API, so that a request never
//! waits for a dial that another request gave up, and so that what was not sent comes back.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use pilotlight_crds::Protocol;
use tokio::{net::TcpStream, runtime::Handle};

use super::connection::Connection;
use crate::{memory::Memory, proxy::tcp::Tcp, time};

/// Idle connections older than this are not used again. Below the keep-alive time of common servers
/// (Node.js closes after 5 s), so that a request rarely meets a closing connection.
const IDLE_LIMIT: Duration = Duration::from_secs(3);

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
        idle.connections.push_back((connection, time::now()));
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
