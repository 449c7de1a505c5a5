//! Activators and pods, what happens to them, and the news of it that are under way.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use pilotlight_activator::{
    function::Outbox,
    peer::{MemberId, Seat, Word},
};
use tokio::task::yield_now;

use super::activator::Activator;

const MOST_ACTIVATORS: usize = 4;
const MOST_PODS: usize = 5;

/// xorshift64*: the same numbers for the same seed.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// What happens besides deaths and departures.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Trouble {
    None,
    /// The limit changes, and activators learn of it at different times.
    Limits,
    /// Connections break or are silent while both ends live: then a limit may be exceeded.
    Links,
}

/// What an activator will learn.
#[derive(Clone)]
pub(super) enum News {
    Word(MemberId, Word),
    Up(MemberId, u64, bool),
    Heard(MemberId, bool),
    Leaves(MemberId),
    Dead(MemberId),
    Limit(u32),
    Pod(String),
    PodEnds(String),
    PodGone(String),
}

pub(super) struct World {
    pub(super) chance: Chance,
    pub(super) trouble: Trouble,
    pub(super) limit: u32,
    /// The highest limit there was; 0: there was none for a time.
    pub(super) highest: u32,
    pub(super) activators: Vec<Activator>,
    /// News under way, by who is told and who is the reason. Each pair's come in order.
    under_way: BTreeMap<(MemberId, MemberId), VecDeque<News>>,
    pub(super) pods: BTreeSet<String>,
    /// How many pods there should be.
    pub(super) wanted: usize,
    /// Pods that were ordered away as idle.
    pub(super) doomed: BTreeSet<String>,
    /// Pods that are about to end: none ends before all have learned that it will.
    ending: BTreeSet<String>,
    made: usize,
    sessions: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let limit = [1, 2, 5, 40, 0][(seed % 5) as usize];
        let mut world = Self {
            chance: Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            trouble: [Trouble::None, Trouble::Limits, Trouble::Links][(seed / 5 % 3) as usize],
            limit,
            highest: limit,
            activators: Vec::new(),
            under_way: BTreeMap::new(),
            pods: BTreeSet::new(),
            wanted: 2,
            doomed: BTreeSet::new(),
            ending: BTreeSet::new(),
            made: 0,
            sessions: 0,
        };
        world.join();
        world.join();
        world.grow();
        world
    }

    pub(super) fn tell(&mut self, whom: &MemberId, of: &MemberId, news: News) {
        self.under_way.entry((whom.clone(), of.clone())).or_default().push_back(news);
    }

    /// What the API server says comes in order to each activator, and at different times.
    fn tell_all(&mut self, news: &News) {
        for whom in self.ids() {
            self.tell(&whom, &"kubernetes".into(), news.clone());
        }
    }

    fn ids(&self) -> Vec<MemberId> {
        self.activators.iter().map(|activator| activator.id.clone()).collect()
    }

    /// Somebody new: it knows who is there before it owns anything, and the others learn of it by and by.
    pub(super) fn join(&mut self) {
        self.made += 1;
        // It does not know what is to go: its peers may use that again until it has decided anew.
        self.doomed.clear();
        let mut new = Activator::new(self.made, self.limit);
        self.pods.iter().for_each(|pod| new.see(pod, false));
        new.scaled(self.pods.len());
        let others: Vec<_> = self.activators.iter().map(|other| (other.id.clone(), other.leaving)).collect();
        for (other, leaving) in others {
            self.sessions += 1;
            let seat = Seat { session: self.sessions, live: true, leaving, handle: Outbox::default() };
            new.seats.insert(other.clone(), seat);
            let up = News::Up(new.id.clone(), self.sessions, false);
            self.tell(&other, &new.id, up);
        }
        new.follow();
        self.activators.push(new);
    }

    /// Killed: its requests end, and nothing of what it has not sent arrives.
    fn kill(&mut self, at: usize) {
        let dead = self.activators.remove(at);
        for request in &dead.waiting {
            request.abort();
        }
        // What it has not learned it never will.
        self.under_way.retain(|(whom, of), _| *whom != dead.id && *of != dead.id);
        for other in self.ids() {
            self.tell(&other, &dead.id, News::Dead(dead.id.clone()));
        }
    }

    fn leave(&mut self, at: usize) {
        self.activators[at].leaving = true;
        self.activators[at].follow();
        let id = self.activators[at].id.clone();
        for other in self.ids().into_iter().filter(|other| *other != id) {
            self.tell(&other, &id, News::Leaves(id.clone()));
        }
    }

    /// A connection breaks, with what is under way on it, and is made anew.
    fn reconnect(&mut self, one: usize, other: usize) {
        let ends = [one, other].map(|at| (self.activators[at].id.clone(), self.activators[at].leaving));
        for [(whom, _), (of, leaving)] in [[&ends[0], &ends[1]], [&ends[1], &ends[0]]] {
            let under_way = self.under_way.entry((whom.clone(), of.clone())).or_default();
            under_way.retain(|news| !matches!(news, News::Word(..)));
            self.sessions += 1;
            let session = self.sessions;
            self.tell(whom, of, News::Dead(of.clone()));
            self.tell(whom, of, News::Up(of.clone(), session, *leaving));
        }
    }

    /// One of two is not heard by the other, or is again.
    fn hush(&mut self, one: usize, other: usize) {
        let (whom, of) = (&self.activators[one], self.activators[other].id.clone());
        if let Some(seat) = whom.seats.get(&of) {
            let (whom, live) = (whom.id.clone(), seat.live);
            self.tell(&whom, &of, News::Heard(of.clone(), !live));
        }
    }

    /// As many pods as there should be, if there are fewer.
    fn grow(&mut self) {
        while self.pods.len() < self.wanted {
            self.pod_appears();
        }
        self.scaled();
    }

    fn pod_appears(&mut self) {
        self.made += 1;
        let pod = format!("pod-{}", self.made);
        self.tell_all(&News::Pod(pod.clone()));
        self.pods.insert(pod);
    }

    fn scaled(&self) {
        self.activators.iter().for_each(|activator| activator.scaled(self.pods.len()));
    }

    /// A pod fails, and is replaced.
    fn pod_fails(&mut self) {
        let Some(pod) = self.pods.pop_first() else { return };
        self.tell_all(&News::PodGone(pod));
        self.pod_appears();
    }

    /// An owner that has been asked to look takes away what is more than is wanted.
    pub(super) fn autoscale(&mut self, at: usize, when: &str) {
        let Some(down) = self.activators[at].autoscale(self.wanted) else { return };
        let left = down.replicas as usize;
        assert!(left < self.pods.len() && left >= self.wanted, "{when}: {down:?} of {:?}", self.pods);
        // Those that have just appeared are not ready yet, and go first.
        let owner = self.activators[at].id.clone();
        let news = self.under_way.get(&(owner, "kubernetes".into())).into_iter().flatten();
        let new = news.filter_map(|news| if let News::Pod(pod) = news { Some(pod) } else { None });
        let victims = new.chain(&down.first).filter(|pod| self.pods.contains(*pod));
        let victims: Vec<_> = victims.take(self.pods.len() - left).cloned().collect();
        // Somebody whom the owner does not know yet may be using them.
        let strangers = self.under_way.values().flatten().any(|news| matches!(news, News::Up(..)));
        for pod in victims {
            self.pods.remove(&pod);
            if !strangers && down.first.contains(&pod) {
                self.doomed.insert(pod.clone());
            }
            self.tell_all(&News::PodEnds(pod.clone()));
            self.ending.insert(pod);
        }
        self.scaled();
    }

    /// What an activator has to say goes out.
    pub(super) fn send(&mut self, at: usize, beat: bool) {
        let (from, function) = (self.activators[at].id.clone(), Arc::clone(&self.activators[at].function));
        let peers: Vec<_> =
            self.activators[at].seats.iter().map(|(id, seat)| (id.clone(), seat.handle.clone())).collect();
        for (peer, outbox) in peers {
            if outbox.take(beat).is_empty() {
                continue;
            }
            if let Some(word) = function.tell(&peer, beat, Instant::now()) {
                self.tell(&peer, &from, News::Word(from.clone(), word));
            }
        }
    }

    /// One piece of news arrives.
    pub(super) fn deliver(&mut self, nth: usize) -> bool {
        let ways: Vec<_> =
            self.under_way.iter().filter(|(_, news)| !news.is_empty()).map(|(way, _)| way.clone()).collect();
        if ways.is_empty() {
            return false;
        }
        let way = &ways[nth % ways.len()];
        let news = self.under_way.get_mut(way).and_then(VecDeque::pop_front).unwrap();
        if let Some(whom) = self.activators.iter_mut().find(|activator| activator.id == way.0) {
            learn(whom, news);
        }
        self.pods_end();
        true
    }

    fn pods_end(&mut self) {
        for pod in std::mem::take(&mut self.ending) {
            let ends = |news: &News| matches!(news, News::PodEnds(ends) if *ends == pod);
            if self.under_way.values().flatten().any(ends) {
                self.ending.insert(pod);
            } else {
                self.tell_all(&News::PodGone(pod));
            }
        }
    }

    pub(super) async fn step(&mut self, when: &str) {
        let at = self.chance.below(self.activators.len());
        match self.chance.below(100) {
            0..25 => self.activators[at].request(),
            25..45 => self.answer(at),
            45..47 => {
                let waiting = &mut self.activators[at].waiting;
                if !waiting.is_empty() {
                    let one = self.chance.below(waiting.len());
                    waiting.swap_remove(one).abort();
                }
            }
            47..83 => {
                self.send(at, self.chance.0.is_multiple_of(8));
                let nth = self.chance.below(1_000);
                self.deliver(nth);
            }
            83..90 => self.autoscale(at, when),
            90..93 => {
                self.wanted = self.chance.below(MOST_PODS);
                // What was to go may be used again.
                self.doomed.clear();
                self.grow();
                self.activators.iter().for_each(|activator| activator.function.poke());
            }
            93 => self.pod_fails(),
            94 if self.activators.len() < MOST_ACTIVATORS => self.join(),
            95 if self.activators.len() > 1 => self.kill(at),
            96 => self.leave(at),
            97.. => self.trouble(at),
            _ => {}
        }
        self.let_run().await;
    }

    /// One of the requests of an activator ends.
    pub(super) fn answer(&mut self, at: usize) {
        let mut in_flight = self.activators[at].in_flight.borrow_mut();
        if !in_flight.is_empty() {
            let one = self.chance.below(in_flight.len());
            in_flight.swap_remove(one);
        }
    }

    fn trouble(&mut self, at: usize) {
        let other = self.chance.below(self.activators.len());
        match self.trouble {
            Trouble::Limits => {
                self.limit = [1, 2, 5, 40, 0][self.chance.below(5)];
                let both_bind = self.highest > 0 && self.limit > 0;
                self.highest = if both_bind { self.highest.max(self.limit) } else { 0 };
                self.tell_all(&News::Limit(self.limit));
            }
            Trouble::Links if other != at && self.chance.below(2) == 0 => self.reconnect(at, other),
            Trouble::Links if other != at => self.hush(at, other),
            _ => {}
        }
    }

    /// Whoever was given a slot takes it.
    pub(super) async fn let_run(&mut self) {
        for _ in 0..4 {
            yield_now().await;
        }
        for activator in &mut self.activators {
            activator.waiting.retain(|request| !request.is_finished());
        }
    }

    pub(super) fn used(&self, pod: &str) -> Vec<u32> {
        self.activators.iter().map(|activator| activator.used(pod)).collect()
    }
}

fn learn(whom: &mut Activator, news: News) {
    match news {
        News::Word(from, word) => {
            whom.function.hear(&from, word, Instant::now());
            return;
        }
        News::Limit(limit) => return whom.configure(limit),
        News::Pod(pod) => return whom.see(&pod, false),
        News::PodEnds(pod) => return whom.see(&pod, true),
        News::PodGone(pod) => return whom.lose(&pod),
        News::Up(id, session, leaving) => {
            whom.seats.insert(id, Seat { session, live: true, leaving, handle: Outbox::default() });
        }
        News::Heard(id, live) => {
            if let Some(seat) = whom.seats.get_mut(&id) {
                seat.live = live;
            }
        }
        News::Leaves(id) => {
            if let Some(seat) = whom.seats.get_mut(&id) {
                seat.leaving = true;
            }
        }
        News::Dead(id) => {
            whom.seats.remove(&id);
        }
    }
    whom.follow();
}
