//! What an activator that does not own a function may send to its pods, as a value: the other side of the
//! owner's [`Ledger`](super::Ledger).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use pilotlight_crds::ColdStart;

use super::{
    note::{ByPod, Down, Going, Load, Up},
    owner::MemberId,
};

/// How long an owner may take to answer a claim before idle leases are given up: it may not know of them,
/// and lend them to others.
const UNANSWERED: Duration = Duration::from_secs(1);

/// The leases of one function.
#[derive(Debug)]
pub struct Leases {
    /// Who owns the function, and the session with it; none while it is not known.
    owner: Option<(MemberId, u64)>,
    /// Number of the last claim: what is said of an older one is void.
    claim: u64,
    /// Since when the owner has not answered the claim.
    unanswered: Option<Instant>,
    /// Whether the claim was made.
    claimed: bool,
    held: ByPod,
    got: u64,
    /// How many leases others wait for.
    owed: u32,
    returned: ByPod,
    going: Going,
    /// Since when somebody has waited for a lease without a break.
    asked: Option<Instant>,
}

/// The state of the moment, for the owner.
#[derive(Debug)]
pub struct Moment {
    /// The load.
    pub load: Load,
    /// How long the oldest held request has waited.
    pub waited: Duration,
    /// Pods that cannot be reached from here.
    pub unreachable: BTreeSet<String>,
    /// Pods with requests in flight, if any pods are to go.
    pub busy: BTreeSet<String>,
    /// The last cold start that ended here, if the owner has not heard of it.
    pub cold_start: Option<ColdStart>,
}

impl Leases {
    /// What is held already, with no owner to claim it from. `claim`: any number that was not used before.
    pub fn new(held: ByPod, claim: u64, now: Instant) -> Self {
        Self {
            owner: None,
            claim,
            unanswered: Some(now),
            claimed: false,
            held,
            got: 0,
            owed: 0,
            returned: ByPod::new(),
            going: Going::default(),
            asked: None,
        }
    }

    /// The function has another owner, or another connection to it: what is held is claimed anew.
    pub fn follow(&mut self, owner: Option<(MemberId, u64)>, now: Instant) {
        if self.owner != owner {
            self.owner = owner;
            self.claim_anew(now);
        }
    }

    fn claim_anew(&mut self, now: Instant) {
        self.claim += 1;
        self.unanswered.get_or_insert(now);
        self.claimed = false;
        self.begin_anew();
    }

    /// Nothing that was said before the claim counts after it.
    fn begin_anew(&mut self) {
        (self.got, self.owed, self.going.version) = (0, 0, 0);
        // They are not among what is held, and so not in the claim.
        self.returned.clear();
    }

    /// The owner.
    pub fn owner(&self) -> Option<&MemberId> {
        self.owner.as_ref().map(|(id, _)| id)
    }

    /// What is held.
    pub fn held(&self) -> &ByPod {
        &self.held
    }

    /// Number of the last claim.
    pub fn claim(&self) -> u64 {
        self.claim
    }

    /// Leases in a pod.
    pub fn on(&self, pod: &str) -> u32 {
        self.held.get(pod).copied().unwrap_or(0)
    }

    /// Whether the owner has answered the claim.
    pub fn answered(&self) -> bool {
        self.unanswered.is_none()
    }

    /// Whether an owner has left the claim unanswered for too long.
    pub fn forsaken(&self, now: Instant) -> bool {
        self.unanswered.is_some_and(|since| now.saturating_duration_since(since) >= UNANSWERED)
    }

    /// Gives up, without a word, all that is not in use: the next claim says what is left.
    pub fn keep_only(&mut self, in_use: ByPod, now: Instant) {
        self.held = in_use;
        self.claim_anew(now);
    }

    /// So many requests wait for a lease. Returns how long the first of them has waited, when none does any
    /// longer.
    pub fn wait(&mut self, held: u32, now: Instant) -> Option<Duration> {
        if held > 0 {
            self.asked.get_or_insert(now);
            return None;
        }
        self.asked.take().map(|asked| now.saturating_duration_since(asked))
    }

    /// What the owner says. Returns whether that changes anything: what refers to an older claim is void.
    pub fn hear(&mut self, from: &MemberId, down: &Down, now: Instant) -> bool {
        let from_owner = self.owner() == Some(from);
        if from_owner && down.asks && self.answered() {
            self.claim_anew(now);
            return true;
        }
        if !from_owner || down.asks || down.claim != self.claim {
            return false;
        }
        self.unanswered = None;
        for (pod, count) in &down.granted {
            *self.held.entry(pod.clone()).or_default() += count;
            self.got += u64::from(*count);
        }
        self.owed = down.recall.unwrap_or(self.owed);
        if let Some(going) = &down.going {
            self.going = going.clone();
        }
        true
    }

    /// How many leases others wait for.
    pub fn owed(&self) -> u32 {
        self.owed
    }

    /// Gives back leases in a pod.
    pub fn give_back(&mut self, pod: &str, count: u32) {
        let Some(held) = self.held.get_mut(pod) else { return };
        let count = count.min(*held);
        if count == 0 {
            return;
        }
        *held -= count;
        self.owed = self.owed.saturating_sub(count);
        *self.returned.entry(pod.to_owned()).or_default() += count;
        self.held.retain(|_, held| *held > 0);
    }

    /// Whether a pod gets no new requests.
    pub fn is_going(&self, pod: &str) -> bool {
        self.going.pods.contains(pod)
    }

    /// The pods that get no new requests.
    pub fn going(&self) -> &BTreeSet<String> {
        &self.going.pods
    }

    /// Whether there is something that the owner waits for: leases that come back, or a claim.
    pub fn is_due(&self) -> bool {
        !self.returned.is_empty() || (self.unanswered.is_some() && !self.claimed)
    }

    /// Whether there is no use in telling the owner anything now: it has to answer the claim first, and a
    /// claim that is made anew makes an answer void that is under way.
    pub fn must_wait(&self, beat: bool) -> bool {
        self.unanswered.is_some() && self.claimed && !beat
    }

    /// What to tell the owner.
    pub fn tell(&mut self, moment: Moment) -> Up {
        let Moment { load, waited, unreachable, busy, cold_start } = moment;
        let holds = self.unanswered.is_some().then(|| {
            // A number of its own for each attempt, so that an answer to an earlier one is not taken for
            // one to this.
            self.claim += 1;
            self.claimed = true;
            self.begin_anew();
            self.held.clone()
        });
        Up {
            claim: self.claim,
            holds,
            load,
            waited: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            got: self.got,
            returned: std::mem::take(&mut self.returned),
            unreachable,
            cold_start,
            busy: (self.going.version > 0).then_some(Going { version: self.going.version, pods: busy }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment() -> Moment {
        Moment {
            load: Load::default(),
            waited: Duration::ZERO,
            unreachable: BTreeSet::new(),
            busy: BTreeSet::new(),
            cold_start: None,
        }
    }

    fn pods(pod: &str, count: u32) -> ByPod {
        [(pod.to_owned(), count)].into()
    }

    /// Leases whose claim on `owner` was answered.
    fn answered(held: ByPod, now: Instant) -> Leases {
        let mut leases = Leases::new(held, 0, now);
        leases.follow(Some(("owner".into(), 1)), now);
        let claim = leases.tell(moment()).claim;
        assert!(leases.hear(&"owner".into(), &Down { claim, ..Down::default() }, now));
        leases
    }

    #[test]
    fn a_claim_is_repeated_with_the_beat_and_only_its_answer_counts() {
        let now = Instant::now();
        let mut leases = Leases::new(pods("p", 2), 5, now);
        leases.follow(Some(("owner".into(), 1)), now);
        assert!(leases.is_due() && !leases.must_wait(false), "the first claim goes out at once");
        let first = leases.tell(moment());
        assert_eq!(first.holds, Some(pods("p", 2)));
        assert!(leases.must_wait(false) && !leases.must_wait(true));
        let second = leases.tell(moment());
        let answer = |claim| Down { claim, granted: pods("p", 1), ..Down::default() };
        assert!(!leases.hear(&"owner".into(), &answer(first.claim), now));
        assert!(!leases.hear(&"other".into(), &answer(second.claim), now));
        assert_eq!(leases.on("p"), 2);
        assert!(leases.hear(&"owner".into(), &answer(second.claim), now));
        assert_eq!((leases.on("p"), leases.tell(moment()).holds), (3, None));
    }

    #[test]
    fn what_was_said_to_one_owner_is_void_for_the_next() {
        let now = Instant::now();
        let mut leases = answered(pods("p", 3), now);
        leases.give_back("p", 1);
        leases.follow(Some(("next".into(), 2)), now);
        let claim = leases.tell(moment());
        assert_eq!((claim.holds, claim.returned), (Some(pods("p", 2)), ByPod::new()));
    }

    #[test]
    fn an_owner_that_has_lost_its_book_is_told_again() {
        let now = Instant::now();
        let mut leases = answered(pods("p", 3), now);
        let asks = Down { asks: true, ..Down::default() };
        assert!(leases.hear(&"owner".into(), &asks, now));
        assert_eq!(leases.tell(moment()).holds, Some(pods("p", 3)));
        assert!(!leases.hear(&"owner".into(), &asks, now), "the claim is on its way");
    }

    #[test]
    fn leases_that_nobody_answers_for_are_given_up() {
        let start = Instant::now();
        let mut leases = answered(pods("p", 3), start);
        assert!(!leases.forsaken(start + UNANSWERED));
        leases.follow(Some(("gone".into(), 2)), start);
        assert!(!leases.forsaken(start + UNANSWERED / 2) && leases.forsaken(start + UNANSWERED));
        leases.keep_only(pods("p", 1), start + UNANSWERED);
        assert_eq!(leases.on("p"), 1);
        assert!(leases.is_due(), "what is left is claimed");
    }

    #[test]
    fn what_is_owed_falls_as_it_is_given_back() {
        let now = Instant::now();
        let mut leases = answered(pods("p", 3), now);
        let claim = leases.claim();
        assert!(leases.hear(&"owner".into(), &Down { claim, recall: Some(2), ..Down::default() }, now));
        leases.give_back("p", 5);
        assert_eq!((leases.owed(), leases.on("p")), (0, 0));
        assert_eq!(leases.tell(moment()).returned, pods("p", 3), "no more than there was");
        assert!(!leases.is_due());
    }
}
