//! What this activator is to a function: its owner, or somebody to whom the owner lends slots.
//!
//! The owner has every slot that it has not lent; without peers it has lent none. The others have what was
//! lent to them. Where there is no limit nothing is lent: everybody sends what comes.

use std::time::Instant;

use crate::{
    peer::{ByPod, Leases, Ledger, Load, MemberId},
    slots::Limit,
};

/// What this activator is to a function.
#[derive(Debug)]
pub(super) enum Role {
    /// Its owner.
    Owner(Book),
    /// Somebody who has leases from the owner.
    Lessee(Leases),
}

/// What an owner knows.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) ledger: Ledger,
    /// A new owner does not know at first what the others hold: until then it has what it had before.
    pub(super) takeover: Option<Takeover>,
    /// Whether more may be lent than the limit allows.
    pub(super) recheck: bool,
}

#[derive(Debug)]
pub(super) struct Takeover {
    pub(super) until: Instant,
    pub(super) held: ByPod,
}

/// How this activator shares a function with its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The owner, if it is another activator.
    pub owner: Option<MemberId>,
    /// Slots that the owner has lent to this activator.
    pub leased: u32,
    /// Slots that this activator, as the owner, has lent.
    pub lent: u32,
}

impl Book {
    /// Everybody has said what he holds, or is dead: from now on it is known what is free.
    pub(super) fn end_takeover(&mut self) {
        self.takeover.take_if(|_| self.ledger.claimed());
    }
}

impl Role {
    /// Of an activator that works alone.
    pub(super) fn alone() -> Self {
        Self::Owner(Book::default())
    }

    /// Of an activator that does not know yet who owns the function.
    pub(super) fn undecided(now: Instant) -> Self {
        Self::Lessee(Leases::new(ByPod::new(), 0, now))
    }

    /// How many requests this activator may have in flight in a pod.
    pub(super) fn room(&self, limit: Limit, pod: &str) -> u32 {
        match (limit.get(), self) {
            (None, _) => u32::MAX,
            (Some(_), Self::Lessee(leases)) => leases.on(pod),
            (Some(limit), Self::Owner(Book { ledger, takeover: None, .. })) => {
                limit.saturating_sub(ledger.lent(pod))
            }
            (Some(_), Self::Owner(Book { takeover: Some(takeover), .. })) => {
                takeover.held.get(pod).copied().unwrap_or(0)
            }
        }
    }

    /// The owner's book; none for others.
    pub(super) fn ledger(&self) -> Option<&Ledger> {
        match self {
            Self::Owner(book) => Some(&book.ledger),
            Self::Lessee(_) => None,
        }
    }

    /// Load of the peers, as far as this activator is the one to know.
    pub(super) fn load(&self) -> Load {
        self.ledger().map(Ledger::load).unwrap_or_default()
    }

    /// Whether more may be in use than is known.
    pub(super) fn is_blind(&self) -> bool {
        self.ledger().is_none_or(|ledger| !ledger.complete())
    }

    /// Whether the owner said that a pod gets no new requests.
    pub(super) fn is_going(&self, pod: &str) -> bool {
        matches!(self, Self::Lessee(leases) if leases.is_going(pod))
    }

    /// The limit has changed: what is not in use is given up, since it may be too much.
    pub(super) fn limit_changed(&mut self, in_use: ByPod, now: Instant) {
        if let Self::Lessee(leases) = self {
            leases.keep_only(in_use, now);
        }
    }

    /// A pod is no more.
    pub(super) fn forget(&mut self, pod: &str) {
        match self {
            Self::Owner(book) => book.ledger.forget(pod),
            Self::Lessee(leases) => leases.give_back(pod, u32::MAX),
        }
    }
}
