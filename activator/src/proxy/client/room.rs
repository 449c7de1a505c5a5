//! Room for client connections: so many in all, and so many from one address.

use std::{
    collections::HashMap,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::memory::Memory;

/// Bits of an IPv6 address that are one client's network (RFC 6177): it has the rest for itself.
const NETWORK: u32 = 64;

/// How long those that were asked to make room have until others are.
const ROUND: Duration = Duration::from_millis(100);

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

    /// Waits until there is room for a connection from an address, which those make that have done nothing for longest.
    /// None: that address has its share.
    pub(super) async fn enter(&self, address: IpAddr, memory: &Memory) -> Option<Occupied> {
        let share = match &self.each {
            Some((most, counts)) => Some(Share::take(network(address), *most, counts)?),
            None => None,
        };
        let permit = match Arc::clone(&self.all).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.make_room(memory).await?,
        };
        Some(Occupied { _of_all: permit, _of_address: share })
    }

    async fn make_room(&self, memory: &Memory) -> Option<OwnedSemaphorePermit> {
        let mut permit = pin!(Arc::clone(&self.all).acquire_owned());
        loop {
            memory.end_idlest();
            if let Ok(permit) = tokio::time::timeout(ROUND, permit.as_mut()).await {
                // The semaphore is never closed.
                return permit.ok();
            }
        }
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
        let (room, memory) = (Room::new(10, 2), Memory::default());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = room.enter(ip("10.0.0.1"), &memory).await;
        let second = room.enter(ip("::ffff:10.0.0.1"), &memory).await;
        assert!(first.is_some() && second.is_some());
        assert!(room.enter(ip("10.0.0.1"), &memory).await.is_none());
        assert!(room.enter(ip("10.0.0.2"), &memory).await.is_some());
        drop(first);
        assert!(room.enter(ip("10.0.0.1"), &memory).await.is_some());
        drop(second);
        assert!(room.each.unwrap().1.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_network_of_ipv6_is_one_client() {
        let (room, memory) = (Room::new(10, 1), Memory::default());
        let _first = room.enter("2001:db8::1".parse().unwrap(), &memory).await.unwrap();
        assert!(room.enter("2001:db8::2".parse().unwrap(), &memory).await.is_none());
        assert!(room.enter("2001:db8:0:1::2".parse().unwrap(), &memory).await.is_some());
    }

    #[tokio::test]
    async fn without_a_limit_nobody_is_counted() {
        let (room, memory) = (Room::new(10, 0), Memory::default());
        let _first = room.enter("10.0.0.1".parse().unwrap(), &memory).await.unwrap();
        assert!(room.enter("10.0.0.1".parse().unwrap(), &memory).await.is_some());
    }
}
