//! The owner's book of one function: what each peer holds, wants and has, as a value.
//!
//! A lease is room for one request in one pod. The book says who has how many; the room that is left in a
//! pod is its limit without what is lent ([`Ledger::lent`]). Nothing is lent twice, because what a peer holds
//! counts until it gives it back, says otherwise in a claim, or is dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    members::View,
    note::{ByPod, Down, Going, Load, Up},
    owner::MemberId,
};

/// A request that waits elsewhere gets a slot that could be used where it is only if it has waited for longer
/// than the oldest one there by a quarter and by this: a slot that moves is idle for as long as a message
/// takes, and under load everybody waits for about as long.
const WORTH_MOVING: Duration = Duration::from_millis(1);

/// How long an owner waits for its peers to say what they hold before it lends anything: they have been
/// told of the change when it was, and do so at once.
pub const CLAIMS_WITHIN: Duration = Duration::from_millis(300);

/// What part of its leases a peer where requests wait is asked for at once.
const FEW: u32 = 4;

/// Whether a slot should go to somebody who waits since `since`, from where the oldest waits since `here`.
pub fn comes_before(since: Instant, here: Instant, now: Instant) -> bool {
    let (waited, here) = (now.saturating_duration_since(since), now.saturating_duration_since(here));
    waited > here + here / 4 + WORTH_MOVING
}

/// The book of one function.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<MemberId, Account>,
    /// Pods that get no new requests.
    going: Going,
}

/// What the owner knows of one peer.
#[derive(Debug, Default)]
struct Account {
    session: u64,
    /// Number of its claim; `None`: it has not said yet what it holds.
    claim: Option<u64>,
    leases: ByPod,
    /// Leases given since the claim.
    given: u64,
    /// Requests that wait there for a lease, and since when the oldest does.
    want: u32,
    since: Option<Instant>,
    load: Load,
    unreachable: BTreeSet<String>,
    /// In which pods it has requests, as an answer to the pods that are to go.
    busy: Going,
    /// How many leases it was asked to give back and has not.
    owed: u32,
    /// Since when it is not heard.
    silent: Option<Instant>,
    /// What it has not been told.
    untold: Down,
    tell: bool,
}

impl Account {
    fn total(&self) -> u32 {
        self.leases.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn wants(&self) -> Option<Instant> {
        self.since.filter(|_| self.want > 0 && self.silent.is_none())
    }

    /// Asks for leases, if the peer should give back more than it knows, or far less.
    fn ask_back(&mut self, asked: u32) {
        let news = asked > self.owed || (asked <= self.owed / 2 && self.owed > 0);
        if news && self.claim.is_some() && self.silent.is_none() {
            self.owed = asked;
            self.untold.recall = Some(asked);
            self.tell = true;
        }
    }

    /// Leases come back. Of a pod that is no more, too: the peer counts them among what it owes.
    fn take(&mut self, pod: &str, count: u32) {
        self.owed = self.owed.saturating_sub(count);
        if let Some(held) = self.leases.get_mut(pod) {
            *held = held.saturating_sub(count);
        }
        self.leases.retain(|_, held| *held > 0);
    }
}

impl Ledger {
    /// Who is there now. Accounts of others are closed; newcomers get one, and have not said yet what they
    /// hold.
    pub fn attend<L>(&mut self, view: &View<L>, now: Instant) {
        let same = |id: &MemberId, account: &Account| {
            view.peers.get(id).is_some_and(|seat| seat.session == account.session)
        };
        self.accounts.retain(|id, account| same(id, account));
        for (id, seat) in &view.peers {
            // Who is not heard, and was not known before, has nothing that was lent here.
            if seat.live || self.accounts.contains_key(id) {
                let new = || Account { session: seat.session, tell: true, ..Account::default() };
                let account = self.accounts.entry(id.clone()).or_insert_with(new);
                account.silent = (!seat.live).then(|| account.silent.unwrap_or(now));
            }
        }
    }

    /// Closes the accounts of those who have been silent for longer than a request may take.
    /// Returns whether there were any.
    pub fn expire(&mut self, total: Duration, now: Instant) -> bool {
        let silent_for = |account: &Account| account.silent.map(|since| now.saturating_duration_since(since));
        let before = self.accounts.len();
        self.accounts.retain(|_, account| silent_for(account).is_none_or(|silent| silent < total));
        self.accounts.len() < before
    }

    /// How many peers there are.
    pub fn members(&self) -> u32 {
        u32::try_from(self.accounts.len()).unwrap_or(u32::MAX)
    }

    /// Whether there are no peers.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// Whether every peer has said what it holds and is heard: if not, more may be in use than is known.
    pub fn complete(&self) -> bool {
        self.accounts.values().all(|account| account.claim.is_some() && account.silent.is_none())
    }

    /// Whether every peer that is heard has said what it holds.
    pub fn claimed(&self) -> bool {
        self.accounts.values().all(|account| account.claim.is_some() || account.silent.is_some())
    }

    /// What a peer says. Returns the pods that it has just found unreachable.
    pub fn hear(&mut self, from: &MemberId, up: Up, now: Instant) -> Vec<String> {
        let Some(account) = self.accounts.get_mut(from) else { return Vec::new() };
        if let Some(holds) = up.holds {
            account.claim = Some(up.claim);
            account.leases = holds;
            (account.given, account.owed) = (0, 0);
            account.busy = Going::default();
            account.untold = Down { going: Some(self.going.clone()), ..Down::default() };
            account.tell = true;
        }
        if account.claim != Some(up.claim) {
            return Vec::new();
        }
        for (pod, count) in &up.returned {
            account.take(pod, *count);
        }
        let under_way = account.given.saturating_sub(up.got);
        account.want = up.load.held.saturating_sub(u32::try_from(under_way).unwrap_or(u32::MAX));
        account.since = now.checked_sub(Duration::from_millis(up.waited)).or(Some(now));
        account.load = up.load;
        if let Some(busy) = up.busy {
            account.busy = busy;
        }
        let found = up.unreachable.difference(&account.unreachable).cloned().collect();
        account.unreachable = up.unreachable;
        found
    }

    /// How many leases in a pod are out.
    pub fn lent(&self, pod: &str) -> u32 {
        let lent = self.accounts.values().filter_map(|account| account.leases.get(pod));
        lent.fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How many leases are out.
    pub fn lent_in_all(&self) -> u32 {
        self.accounts.values().fold(0, |sum, account| sum.saturating_add(account.total()))
    }

    /// A pod is no more, and neither are the leases in it.
    pub fn forget(&mut self, pod: &str) {
        for account in self.accounts.values_mut() {
            account.leases.remove(pod);
        }
    }

    /// Those who wait for a lease, the one whose request is the oldest first.
    pub fn hungry(&self) -> Vec<(Instant, MemberId)> {
        let wants = |(id, account): (&MemberId, &Account)| Some((account.wants()?, id.clone()));
        let mut hungry: Vec<_> = self.accounts.iter().filter_map(wants).collect();
        hungry.sort();
        hungry
    }

    /// How many requests of a peer wait for a lease.
    pub fn want(&self, peer: &MemberId) -> u32 {
        self.accounts.get(peer).map_or(0, |account| account.want)
    }

    /// Whether a peer can use a pod.
    pub fn reaches(&self, peer: &MemberId, pod: &str) -> bool {
        self.accounts.get(peer).is_some_and(|account| !account.unreachable.contains(pod))
    }

    /// Lends a peer room for one request in a pod.
    pub fn lend(&mut self, peer: &MemberId, pod: &str) {
        let Some(account) = self.accounts.get_mut(peer) else { return };
        *account.leases.entry(pod.to_owned()).or_default() += 1;
        *account.untold.granted.entry(pod.to_owned()).or_default() += 1;
        account.given += 1;
        account.want = account.want.saturating_sub(1);
        account.tell = true;
    }

    /// Whether anybody waits for a lease, or was asked for one.
    pub fn stirs(&self) -> bool {
        self.accounts.values().any(|account| account.want > 0 || account.owed > 0)
    }

    /// Asks back what others wait for, and what is more than `limit` in a pod. `own`: how many requests wait
    /// here, and since when the oldest does.
    pub fn recall(&mut self, limit: u32, own: Option<(u32, Instant)>, now: Instant) {
        let peers = self.accounts.iter();
        let waiting: Vec<(Option<&MemberId>, u32, Instant)> = peers
            .filter_map(|(id, account)| Some((Some(id), account.want, account.wants()?)))
            .chain(own.map(|(count, since)| (None, count, since)))
            .collect();
        // Who waits longer than the oldest request of the peer itself. Of one where requests wait a few at a
        // time are asked back: it is soon the one whose requests are the oldest.
        let rivals = |id: &MemberId, account: &Account| {
            let mine = account.wants();
            let before = |since: Instant| mine.is_none_or(|mine| comes_before(since, mine, now));
            let others = waiting.iter().filter(|(other, _, since)| *other != Some(id) && before(*since));
            let others = others.fold(0_u32, |sum, (_, count, _)| sum.saturating_add(*count));
            others.min(if mine.is_some() { account.total().div_ceil(FEW) } else { u32::MAX })
        };
        let excess = |account: &Account| {
            let over = |(pod, held): (&String, &u32)| self.lent(pod).saturating_sub(limit).min(*held);
            account.leases.iter().map(over).fold(0_u32, u32::saturating_add)
        };
        let asked: Vec<u32> = self
            .accounts
            .iter()
            .map(|(id, account)| rivals(id, account).max(excess(account)).min(account.total()))
            .collect();
        for (account, asked) in self.accounts.values_mut().zip(asked) {
            account.ask_back(asked);
        }
    }

    /// Load of the peers: in flight and held. Of a silent one, what it holds counts as in flight, since
    /// nobody else can use it.
    pub fn load(&self) -> Load {
        self.accounts.values().fold(Load::default(), |sum, account| {
            let in_flight = match account.silent {
                Some(_) => account.load.in_flight.max(account.total()),
                None => account.load.in_flight,
            };
            Load {
                in_flight: sum.in_flight.saturating_add(in_flight),
                held: sum.held.saturating_add(account.load.held),
                arrivals: sum.arrivals.saturating_add(account.load.arrivals),
            }
        })
    }

    /// Which pods get no new requests from anybody.
    pub fn set_going(&mut self, pods: BTreeSet<String>) {
        if self.going.pods == pods {
            return;
        }
        self.going = Going { version: self.going.version + 1, pods };
        for account in self.accounts.values_mut().filter(|account| account.claim.is_some()) {
            account.untold.going = Some(self.going.clone());
            account.tell = true;
        }
    }

    /// Whether a peer has, or may have, requests on a pod that is to go.
    pub fn busy(&self, pod: &str) -> bool {
        let free = |account: &Account| {
            account.busy.version == self.going.version && !account.busy.pods.contains(pod)
        };
        let told = self.going.pods.contains(pod);
        self.accounts.values().any(|account| !told || !free(account))
    }

    /// Whether a peer has said that it has requests on a pod.
    pub fn known_busy(&self, pod: &str) -> bool {
        self.accounts.values().any(|account| account.busy.pods.contains(pod))
    }

    /// Whom there is something to tell.
    pub fn untold(&self) -> impl Iterator<Item = &MemberId> {
        self.accounts.iter().filter(|(_, account)| account.tell).map(|(id, _)| id)
    }

    /// What there is to tell a peer, once.
    pub fn tell(&mut self, peer: &MemberId) -> Option<Down> {
        let account = self.accounts.get_mut(peer).filter(|account| account.tell)?;
        account.tell = false;
        Some(match account.claim {
            Some(claim) => Down { claim, ..std::mem::take(&mut account.untold) },
            None => Down { asks: true, ..Down::default() },
        })
    }
}

#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
