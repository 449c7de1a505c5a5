//! What the watch and the connections report to [`Peers`](super::Peers).

use super::{members::PeerPod, owner::MemberId};
use crate::function::Outbox;

/// What happens to peers.
#[derive(Clone, Debug)]
pub enum Event {
    /// Kubernetes names an activator.
    Pod(MemberId, PeerPod),
    /// An activator's pod is no more.
    Gone(MemberId),
    /// Kubernetes has named all.
    Listed,
    /// There is a connection.
    Connected {
        /// To whom.
        peer: MemberId,
        /// Its number.
        session: u64,
        /// How to talk to the peer.
        outbox: Outbox,
    },
    /// A peer has said something.
    Heard {
        /// Who.
        peer: MemberId,
        /// Over which connection.
        session: u64,
        /// Whether it is about to end.
        leaving: bool,
    },
    /// A connection has ended.
    Closed {
        /// To whom.
        peer: MemberId,
        /// Its number.
        session: u64,
    },
    /// A peer was dialled in vain.
    Unreachable(MemberId),
    /// A peer that was dialled may be dialled again.
    Dialled(MemberId),
}
