//! Room for client connections: so many in all, and so many from one address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bits of an IPv6 address that are one client's network (RFC 6177): it has the rest for itself.
const NETWORK: u32 = 64;

type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Room for connections.
#[derive(Debug)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    /// Connections of each address, if those are limited.
    each: Option<(usize, Counts)>,
}

/// Room that one connection occupies.
#[derive(Debug)]
pub(super) struct Occupied {
    _of_all: OwnedSemaphorePermit,
    _of_address: Option<Share>,
}

/// A connection of an address.
#[derive(Debug)]
struct Share {
    address: IpAddr,
    counts: Counts,
}

impl Room {
    /// For so many connections, and so many from one address; 0: as many as there are.
    pub(super) fn new(all: usize, from_one: usize) -> Self {
        let each = (from_one > 0).then(|| (from_one, Counts::default()));
        Self { all: Arc::new(Semaphore::new(all)), each }
    }

    /// Waits until there is room for a connection from an address. None: that address has its share.
    pub(super) async fn enter(&self, address: IpAddr) -> Option<Occupied> {
        let share = match &self.each {
            Some((most, counts)) => Some(Share::take(network(address), *most, counts)?),
            None => None,
        };
        // The semaphore is never closed.
        let permit = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Occupied { _of_all: permit, _of_address: share })
    }
}

impl Share {
    fn take(address: IpAddr, most: usize, counts: &Counts) -> Option<Self> {
        let mut all = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(address).or_default();
        (*count < most).then(|| {
            *count += 1;
            Self { address, counts: Arc::clone(counts) }
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let left = all.get_mut(&self.address).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            all.remove(&self.address);
        }
    }
}

/// The address by which a client is known.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mask = u128::MAX << (u128::BITS - NETWORK);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_gets_its_share_and_no_more() {
        let room = Room::new(10, 2);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = room.enter(ip("10.0.0.1")).await;
        let second = room.enter(ip("::ffff:10.0.0.1")).await;
        assert!(first.is_some() && second.is_some());
        assert!(room.enter(ip("10.0.0.1")).await.is_none());
        assert!(room.enter(ip("10.0.0.2")).await.is_some());
        drop(first);
        assert!(room.enter(ip("10.0.0.1")).await.is_some());
        drop(second);
        assert!(room.each.unwrap().1.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_network_of_ipv6_is_one_client() {
        let room = Room::new(10, 1);
        let _first = room.enter("2001:db8::1".parse().unwrap()).await.unwrap();
        assert!(room.enter("2001:db8::2".parse().unwrap()).await.is_none());
        assert!(room.enter("2001:db8:0:1::2".parse().unwrap()).await.is_some());
    }

    #[tokio::test]
    async fn without_a_limit_nobody_is_counted() {
        let room = Room::new(10, 0);
        let _first = room.enter("10.0.0.1".parse().unwrap()).await.unwrap();
        assert!(room.enter("10.0.0.1".parse().unwrap()).await.is_some());
    }
}
