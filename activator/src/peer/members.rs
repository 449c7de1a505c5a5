//! Who is there: what Kubernetes says of the activators' pods, and how their connections are, as a value.
//!
//! A peer is live while Kubernetes knows it and it is heard over its connection. A connection that is closed
//! means dead at once; one that is only silent means that the peer may still be working, so what it holds
//! stays its own for a while.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use pilotlight_crds::FunctionKey;

use super::owner::{MemberId, owner};

/// How long the peers that Kubernetes names may take to be reached or to refuse, when a process has just
/// started: until then it owns nothing, since somebody else may.
const FIRST_CONTACT: Duration = Duration::from_secs(1);

/// Who is there, and what is known of them. `L` is what one needs to talk to a peer.
#[derive(Debug)]
pub struct Members<L> {
    me: MemberId,
    silence: Duration,
    leaving: bool,
    listed: Option<Instant>,
    settled: bool,
    peers: BTreeMap<MemberId, Peer<L>>,
}

#[derive(Debug)]
struct Peer<L> {
    /// `None`: connected, but Kubernetes has not named it yet.
    pod: Option<PeerPod>,
    /// Whether it was reached, or could not be, at least once.
    tried: bool,
    link: Option<Link<L>>,
}

impl<L> Default for Peer<L> {
    fn default() -> Self {
        Self { pod: None, tried: false, link: None }
    }
}

/// What Kubernetes says of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerPod {
    /// Where it listens to its peers, once it has an address.
    pub address: Option<SocketAddr>,
    /// Whether it was told to end.
    pub ending: bool,
}

#[derive(Debug)]
struct Link<L> {
    session: u64,
    handle: L,
    heard: Instant,
    leaving: bool,
}

/// A peer as the functions see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat<L> {
    /// Counts connections: another number, and nothing that was said before holds.
    pub session: u64,
    /// Whether it is heard. If not, it may still be working on what it holds.
    pub live: bool,
    /// Whether it is about to end, and owns nothing.
    pub leaving: bool,
    /// How to talk to it.
    pub handle: L,
}

/// Who is there, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View<L> {
    /// This activator; `None` if it works alone.
    pub me: Option<MemberId>,
    /// Whether this activator is about to end.
    pub leaving: bool,
    /// Whether the peers are known well enough to own anything.
    pub settled: bool,
    /// The others.
    pub peers: BTreeMap<MemberId, Seat<L>>,
}

/// Who owns a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This activator.
    Me,
    /// A peer.
    Peer(MemberId),
    /// Not known yet: this activator has just started.
    Unknown,
}

impl<L> View<L> {
    /// An activator without peers.
    pub const fn alone() -> Self {
        Self { me: None, leaving: false, settled: true, peers: BTreeMap::new() }
    }

    /// The owner of a function: a member that stays, if any does.
    pub fn owner(&self, function: &FunctionKey) -> Owner {
        let Some(me) = self.me.as_ref() else { return Owner::Me };
        if !self.settled {
            return Owner::Unknown;
        }
        let live = || self.peers.iter().filter(|(_, seat)| seat.live);
        let staying = live().filter(|(_, seat)| !seat.leaving).map(|(id, _)| id);
        let staying = owner(staying.chain((!self.leaving).then_some(me)), function);
        let chosen = staying.or_else(|| owner(live().map(|(id, _)| id).chain([me]), function));
        match chosen {
            Some(peer) if peer != me => Owner::Peer(peer.clone()),
            _ => Owner::Me,
        }
    }
}

impl<L: Clone> Members<L> {
    /// Only `me`, and nothing known of others. A peer that is not heard for `silence` is no longer live.
    pub fn new(me: MemberId, silence: Duration) -> Self {
        Self { me, silence, leaving: false, listed: None, settled: false, peers: BTreeMap::new() }
    }

    /// This activator.
    pub fn me(&self) -> &MemberId {
        &self.me
    }

    /// Kubernetes names an activator.
    pub fn apply(&mut self, id: MemberId, pod: PeerPod) {
        if id != self.me {
            self.peers.entry(id).or_default().pod = Some(pod);
        }
    }

    /// An activator's pod is no more. Returns the connection to it that is no longer wanted.
    pub fn delete(&mut self, id: &MemberId) -> Option<L> {
        self.peers.remove(id)?.link.map(|link| link.handle)
    }

    /// Kubernetes has named all there are.
    pub fn listed(&mut self, now: Instant) {
        self.listed.get_or_insert(now);
    }

    /// This activator is about to end.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// There is a connection to a peer, in place of any that was there. Returns that one.
    pub fn connected(&mut self, id: MemberId, session: u64, handle: L, now: Instant) -> Option<L> {
        let peer = self.peers.entry(id).or_default();
        peer.tried = true;
        let link = Link { session, handle, heard: now, leaving: false };
        peer.link.replace(link).map(|before| before.handle)
    }

    /// A peer has said something, and whether it is about to end.
    pub fn heard(&mut self, id: &MemberId, session: u64, leaving: bool, now: Instant) {
        let link = self.peers.get_mut(id).and_then(|peer| peer.link.as_mut());
        if let Some(link) = link.filter(|link| link.session == session) {
            link.heard = now;
            link.leaving = leaving;
        }
    }

    /// A connection was closed.
    pub fn closed(&mut self, id: &MemberId, session: u64) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.link.take_if(|link| link.session == session);
        if peer.link.is_none() && peer.pod.is_none() {
            self.peers.remove(id);
        }
    }

    /// A peer could not be reached.
    pub fn unreachable(&mut self, id: &MemberId) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.tried = true;
        }
    }

    /// Peers without a connection that are for this activator to dial, and where: of two, the lesser id
    /// dials, so that a pair has one connection.
    pub fn to_dial(&self) -> impl Iterator<Item = (&MemberId, SocketAddr)> {
        let unlinked = self.peers.iter().filter(|(id, peer)| self.me < **id && peer.link.is_none());
        unlinked.filter_map(|(id, peer)| Some((id, peer.pod?.address?)))
    }

    /// Who is there now.
    pub fn view(&mut self, now: Instant) -> View<L> {
        let since = |then: Instant| now.saturating_duration_since(then);
        let tried = || self.peers.values().all(|peer| peer.tried || peer.pod.is_none());
        self.settled |= self.listed.is_some_and(|listed| tried() || since(listed) >= FIRST_CONTACT);
        let seat = |peer: &Peer<L>| {
            let (pod, link) = (peer.pod?, peer.link.as_ref()?);
            Some(Seat {
                session: link.session,
                live: since(link.heard) < self.silence,
                leaving: link.leaving || pod.ending,
                handle: link.handle.clone(),
            })
        };
        let peers = self.peers.iter().filter_map(|(id, peer)| Some((id.clone(), seat(peer)?)));
        View {
            me: Some(self.me.clone()),
            leaving: self.leaving,
            settled: self.settled,
            peers: peers.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(1);
    const POD: PeerPod = PeerPod {
        address: Some(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8083)),
        ending: false,
    };

    fn members() -> (Members<()>, Instant) {
        (Members::new("b".into(), SILENCE), Instant::now())
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// The live peers.
    fn live(members: &mut Members<()>, now: Instant) -> Vec<String> {
        let view = members.view(now);
        view.peers.iter().filter(|(_, seat)| seat.live).map(|(id, _)| id.to_string()).collect()
    }

    /// Who owns 100 functions.
    fn owners(view: &View<()>) -> Vec<Owner> {
        let mut owners: Vec<_> =
            (0..100).map(|n| view.owner(&FunctionKey::new("demo", format!("f{n}")))).collect();
        owners.sort_by_key(|owner| format!("{owner:?}"));
        owners.dedup();
        owners
    }

    #[test]
    fn a_peer_is_live_while_it_is_known_and_heard() {
        let (mut members, start) = members();
        members.connected("a".into(), 1, (), start);
        assert!(live(&mut members, start).is_empty(), "not named by Kubernetes yet");
        members.apply("a".into(), POD);
        assert_eq!(live(&mut members, after(start, 999)), ["a"]);
        assert!(live(&mut members, after(start, 1_000)).is_empty(), "silent");
        assert!(members.view(after(start, 1_000)).peers.contains_key(&"a".into()), "but still there");
        members.heard(&"a".into(), 1, false, after(start, 1_500));
        assert_eq!(live(&mut members, after(start, 2_400)), ["a"]);
        members.delete(&"a".into());
        assert!(members.view(after(start, 2_400)).peers.is_empty());
    }

    #[test]
    fn a_closed_connection_means_dead_at_once_unless_there_is_a_newer_one() {
        let (mut members, now) = members();
        members.apply("a".into(), POD);
        members.connected("a".into(), 1, (), now);
        members.connected("a".into(), 2, (), now);
        members.closed(&"a".into(), 1);
        assert_eq!(live(&mut members, now), ["a"]);
        members.closed(&"a".into(), 2);
        assert!(members.view(now).peers.is_empty());
    }

    #[test]
    fn of_a_pair_the_lesser_dials() {
        let (mut members, now) = members();
        members.apply("a".into(), POD);
        members.apply("c".into(), POD);
        members.apply("b".into(), POD);
        let to_dial: Vec<_> = members.to_dial().map(|(id, _)| id.to_string()).collect();
        assert_eq!(to_dial, ["c"]);
        members.connected("c".into(), 1, (), now);
        assert_eq!(members.to_dial().count(), 0);
    }

    #[test]
    fn who_has_just_started_owns_nothing_until_it_knows_its_peers() {
        let (mut members, start) = members();
        assert_eq!(owners(&members.view(start)), [Owner::Unknown]);
        members.apply("a".into(), POD);
        members.listed(start);
        assert_eq!(owners(&members.view(after(start, 999))), [Owner::Unknown]);
        assert_eq!(owners(&members.view(after(start, 1_000))), [Owner::Me], "a cannot be reached");
        members.apply("c".into(), POD);
        assert_eq!(owners(&members.view(after(start, 1_001))), [Owner::Me], "a newcomer changes nothing yet");
        members.connected("c".into(), 1, (), after(start, 1_001));
        assert_eq!(owners(&members.view(after(start, 1_002))), [Owner::Me, Owner::Peer("c".into())]);
    }

    #[test]
    fn refused_peers_are_not_waited_for() {
        let (mut members, start) = members();
        members.apply("c".into(), POD);
        members.listed(start);
        members.unreachable(&"c".into());
        assert_eq!(owners(&members.view(start)), [Owner::Me]);
    }

    #[test]
    fn who_leaves_hands_over_at_once() {
        let (mut members, now) = members();
        members.apply("a".into(), POD);
        members.listed(now);
        members.connected("a".into(), 1, (), now);
        assert_eq!(owners(&members.view(now)), [Owner::Me, Owner::Peer("a".into())]);
        members.heard(&"a".into(), 1, true, now);
        assert_eq!(owners(&members.view(now)), [Owner::Me]);
        members.leave();
        assert_eq!(owners(&members.view(now)).len(), 2, "all leave: they own to the end");
        members.heard(&"a".into(), 1, false, now);
        assert_eq!(owners(&members.view(now)), [Owner::Peer("a".into())]);
        members.apply("a".into(), PeerPod { ending: true, ..POD });
        assert_eq!(owners(&members.view(now)).len(), 2);
    }

    #[test]
    fn alone_everything_is_mine() {
        assert_eq!(owners(&View::alone()), [Owner::Me]);
    }
}
