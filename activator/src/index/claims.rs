//! Whose address an address is. Kubernetes gives the address of a pod that has ended to the next one, and
//! events of the two may come in any order: no request may then reach a pod that it was not meant for.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use pilotlight_crds::ObservedPod;

/// The pods that live at each address, by uid.
#[derive(Debug, Default)]
pub(super) struct Claims {
    holders: HashMap<IpAddr, ObservedPod>,
    /// Pods whose address has gone to another, until they are deleted.
    displaced: HashSet<String>,
}

impl Claims {
    /// A pod is there, or has changed. Returns the uid of the pod that has thereby lost its address: another
    /// one, or this one.
    pub(super) fn see(&mut self, pod: &ObservedPod) -> Option<String> {
        let address = pod.address.filter(|_| !pod.node_network)?;
        if self.displaced.contains(&pod.uid) {
            return Some(pod.uid.clone());
        }
        let holder = self.holders.get(&address).filter(|holder| holder.uid != pod.uid);
        let loser = match holder {
            // What is ending already goes its own way, and keeps no address from another.
            _ if pod.ending => {
                self.release(&pod.uid, address);
                return None;
            }
            // Creation has no fraction of a second: of two in the same one, the second seen is the second.
            Some(holder) if holder.created > pod.created => Some(pod.uid.clone()),
            Some(holder) => Some(holder.uid.clone()),
            None => None,
        };
        if loser.as_ref() != Some(&pod.uid) {
            self.holders.insert(address, pod.clone());
        }
        self.displaced.extend(loser.clone());
        loser
    }

    /// A pod is no more.
    pub(super) fn forget(&mut self, pod: &ObservedPod) {
        self.displaced.remove(&pod.uid);
        if let Some(address) = pod.address {
            self.release(&pod.uid, address);
        }
    }

    fn release(&mut self, uid: &str, address: IpAddr) {
        if self.holders.get(&address).is_some_and(|holder| holder.uid == uid) {
            self.holders.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use pilotlight_crds::FunctionKey;

    use super::*;

    fn pod(uid: &str, created: i64) -> ObservedPod {
        ObservedPod {
            function: FunctionKey::new("demo", "hello"),
            revision: "r1".into(),
            name: uid.into(),
            uid: uid.into(),
            scheduled: true,
            created: Timestamp::from_second(created).ok(),
            node_network: false,
            address: Some([10, 0, 0, 1].into()),
            port: None,
            ending: false,
            trouble: None,
        }
    }

    #[test]
    fn the_older_pod_loses_its_address_whatever_comes_first() {
        for (first, second) in [(("old", 1), ("new", 2)), (("new", 2), ("old", 1)), (("old", 1), ("new", 1))]
        {
            let mut claims = Claims::default();
            assert_eq!(claims.see(&pod(first.0, first.1)), None);
            assert_eq!(claims.see(&pod(second.0, second.1)).as_deref(), Some("old"), "{first:?} {second:?}");
            assert_eq!(claims.see(&pod("new", 2)), None);
            assert_eq!(claims.see(&pod("old", 1)).as_deref(), Some("old"), "and does not get it back");
            claims.forget(&pod("old", 1));
            assert_eq!(claims.see(&pod("new", 2)), None);
            assert_eq!(claims.displaced.len() + claims.holders.len(), 1);
        }
    }

    #[test]
    fn an_address_is_free_once_its_pod_is_ending_or_deleted() {
        let mut claims = Claims::default();
        claims.see(&pod("a", 1));
        assert_eq!(claims.see(&ObservedPod { ending: true, ..pod("a", 1) }), None);
        assert_eq!(claims.see(&pod("b", 1)), None);
        claims.forget(&pod("b", 1));
        assert_eq!(claims.see(&pod("c", 1)), None);
    }

    #[test]
    fn pods_in_the_network_of_their_node_share_its_address() {
        let mut claims = Claims::default();
        for uid in ["a", "b"] {
            assert_eq!(claims.see(&ObservedPod { node_network: true, ..pod(uid, 1) }), None);
        }
    }
}
