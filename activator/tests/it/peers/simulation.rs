//! A function in up to four activators, with nothing between them but messages that take their time.
//! Requests come and go, pods and activators too, in random order; what must always hold is checked after
//! every step.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use pilotlight_activator::{
    function::{Acquired, FunctionState, Pokes, Process, Wish},
    index::{Domains, Index, ToProbe},
    metrics::Metrics,
    peer::{MemberId, Outbox, PeerView, Seat, View, Word},
};
use pilotlight_crds::{Function, FunctionKey, FunctionSpec, FunctionStatus, ObservedPod};
use prometheus::Registry;
use tokio::task::{JoinHandle, LocalSet, yield_now};

const STEPS: usize = 600;
const MOST_ACTIVATORS: usize = 4;

/// xorshift64*: the same numbers for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// An activator as the others are to learn of it.
struct Activator {
    id: MemberId,
    process: Arc<Process>,
    index: Index,
    function: Arc<FunctionState>,
    _pokes: Pokes,
    /// What it knows: sessions of its peers, and whether they leave.
    seats: BTreeMap<MemberId, Seat<Outbox>>,
    leaving: bool,
    in_flight: Rc<RefCell<Vec<Acquired>>>,
    waiting: Vec<JoinHandle<()>>,
}

impl Activator {
    fn new(id: usize, limit: u32) -> Self {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let (process, pokes) = Process::new(10_000, 1 << 28);
        let domains = Domains { outside: "example.org".into(), cluster: "cluster.local".into() };
        let id: MemberId = format!("activator-{id}").into();
        let unsettled = View { me: Some(id.clone()), settled: false, ..View::alone() };
        process.set_view(Arc::new(unsettled));
        let index = Index::new(domains, metrics, Arc::clone(&process));
        let spec = FunctionSpec { concurrency: limit, ..FunctionSpec::from_image("x") };
        let mut function = Function::new("hello", spec);
        function.metadata.namespace = Some("demo".into());
        function.status = Some(FunctionStatus {
            revision: Some("r1".into()),
            latest_revision: Some("r1".into()),
            ..Default::default()
        });
        index.apply_function(&function);
        let function = index.function(&FunctionKey::new("demo", "hello")).unwrap();
        let (seats, in_flight, waiting) = (BTreeMap::new(), Rc::default(), Vec::new());
        Self { id, process, index, function, _pokes: pokes, seats, leaving: false, in_flight, waiting }
    }

    /// What it knows of its peers has changed.
    fn follow(&self) {
        let view: PeerView = View {
            me: Some(self.id.clone()),
            leaving: self.leaving,
            settled: true,
            peers: self.seats.clone(),
        };
        self.process.set_view(Arc::new(view));
        self.function.follow(Instant::now());
    }

    /// A request that is let go once it has a slot, or when it gives up.
    fn request(&mut self) {
        let (function, in_flight) = (Arc::clone(&self.function), Rc::clone(&self.in_flight));
        self.waiting.push(tokio::task::spawn_local(async move {
            if let Ok(acquired) = function.acquire(Wish::default()).await {
                in_flight.borrow_mut().push(acquired);
            }
        }));
    }

    fn used(&self, pod: &str) -> u32 {
        self.in_flight.borrow().iter().filter(|acquired| acquired.slot.pod().uid == pod).count() as u32
    }
}

/// What an activator will learn.
#[derive(Clone)]
enum News {
    Word(MemberId, Word),
    Up(MemberId, u64, bool),
    Leaves(MemberId),
    Dead(MemberId),
}

struct World {
    chance: Chance,
    limit: u32,
    activators: Vec<Activator>,
    /// News under way, by who is told and who is the reason. Each pair's come in order.
    under_way: BTreeMap<(MemberId, MemberId), VecDeque<News>>,
    pods: BTreeSet<String>,
    made: usize,
    sessions: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            chance: Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            limit: [1, 2, 5, 40, 0][(seed % 5) as usize],
            activators: Vec::new(),
            under_way: BTreeMap::new(),
            pods: BTreeSet::new(),
            made: 0,
            sessions: 0,
        };
        world.join();
        world.join();
        world
    }

    fn tell(&mut self, whom: &MemberId, of: &MemberId, news: News) {
        self.under_way.entry((whom.clone(), of.clone())).or_default().push_back(news);
    }

    /// Somebody new: it knows who is there before it owns anything, and the others learn of it by and by.
    fn join(&mut self) {
        self.made += 1;
        let mut new = Activator::new(self.made, self.limit);
        for pod in &self.pods {
            see(&new, pod, false);
        }
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
        let others: Vec<_> = self.activators.iter().map(|other| other.id.clone()).collect();
        for other in others {
            self.under_way.remove(&(dead.id.clone(), other.clone()));
            self.tell(&other, &dead.id, News::Dead(dead.id.clone()));
        }
    }

    fn leave(&mut self, at: usize) {
        self.activators[at].leaving = true;
        self.activators[at].follow();
        let id = self.activators[at].id.clone();
        let others: Vec<_> = self.activators.iter().map(|other| other.id.clone()).collect();
        for other in others.into_iter().filter(|other| *other != id) {
            self.tell(&other, &id, News::Leaves(id.clone()));
        }
    }

    fn pod_appears(&mut self) {
        self.made += 1;
        let pod = format!("pod-{}", self.made);
        self.activators.iter().for_each(|activator| see(activator, &pod, false));
        self.pods.insert(pod);
    }

    fn pod_ends(&mut self) {
        let Some(pod) = self.pods.pop_first() else { return };
        for activator in &self.activators {
            see(activator, &pod, true);
            activator.index.delete_pod(&pod);
            activator.in_flight.borrow_mut().retain(|acquired| acquired.slot.pod().uid != pod);
        }
    }

    /// What an activator has to say goes out.
    fn send(&mut self, at: usize, beat: bool) {
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
    fn deliver(&mut self, nth: usize) -> bool {
        let ways: Vec<_> =
            self.under_way.iter().filter(|(_, news)| !news.is_empty()).map(|(way, _)| way.clone()).collect();
        if ways.is_empty() {
            return false;
        }
        let way = &ways[nth % ways.len()];
        let news = self.under_way.get_mut(way).and_then(VecDeque::pop_front).unwrap();
        let Some(whom) = self.activators.iter_mut().find(|activator| activator.id == way.0) else {
            return true;
        };
        match news {
            News::Word(from, word) => {
                whom.function.hear(&from, word, Instant::now());
                return true;
            }
            News::Up(id, session, leaving) => {
                whom.seats.insert(id, Seat { session, live: true, leaving, handle: Outbox::default() });
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
        true
    }

    async fn step(&mut self) {
        let at = self.chance.below(self.activators.len());
        match self.chance.below(100) {
            0..25 => self.activators[at].request(),
            25..45 => {
                let mut in_flight = self.activators[at].in_flight.borrow_mut();
                if !in_flight.is_empty() {
                    let one = self.chance.below(in_flight.len());
                    in_flight.swap_remove(one);
                }
            }
            45..47 => {
                let waiting = &mut self.activators[at].waiting;
                if !waiting.is_empty() {
                    let one = self.chance.below(waiting.len());
                    waiting.swap_remove(one).abort();
                }
            }
            47..90 => {
                self.send(at, self.chance.0.is_multiple_of(8));
                let nth = self.chance.below(1_000);
                self.deliver(nth);
            }
            90..94 if self.pods.len() < 4 => self.pod_appears(),
            94 => self.pod_ends(),
            95 if self.activators.len() < MOST_ACTIVATORS => self.join(),
            96 if self.activators.len() > 1 => self.kill(at),
            97 => self.leave(at),
            _ => {}
        }
        self.let_run().await;
    }

    /// Whoever was given a slot takes it.
    async fn let_run(&mut self) {
        for _ in 0..4 {
            yield_now().await;
        }
        for activator in &mut self.activators {
            activator.waiting.retain(|request| !request.is_finished());
        }
    }

    fn check(&self, when: &str) {
        for pod in self.pods.iter().filter(|_| self.limit > 0) {
            let used: Vec<_> = self.activators.iter().map(|activator| activator.used(pod)).collect();
            let limit = self.limit;
            assert!(used.iter().sum::<u32>() <= limit, "{when}: {used:?} in flight in {pod}, {limit}");
        }
        let shares = self.activators.iter().map(|activator| activator.function.share());
        assert!(self.limit > 0 || shares.map(|share| share.leased + share.lent).sum::<u32>() == 0, "{when}");
    }

    /// Every message arrives, and what is repeated with time is.
    async fn settle(&mut self) {
        for round in 0..200 {
            for at in 0..self.activators.len() {
                self.send(at, round % 4 == 3);
            }
            while self.deliver(0) {}
            self.let_run().await;
            self.check("while it comes to rest");
        }
    }

    fn check_at_rest(&self, seed: u64) {
        let waiting: usize = self.activators.iter().map(|activator| activator.waiting.len()).sum();
        for pod in self.pods.iter().filter(|_| waiting > 0) {
            let used: u32 = self.activators.iter().map(|activator| activator.used(pod)).sum();
            let full = self.limit > 0 && used == self.limit;
            assert!(full, "seed {seed}: {waiting} wait, and {pod} has free slots: {used}");
        }
        let owners = self.activators.iter().filter(|activator| activator.function.share().owner.is_none());
        assert_eq!(owners.count(), 1, "seed {seed}");
    }

    async fn end(&mut self, seed: u64) {
        for activator in &mut self.activators {
            activator.waiting.drain(..).for_each(|request| request.abort());
        }
        self.let_run().await;
        self.activators.iter().for_each(|activator| activator.in_flight.borrow_mut().clear());
        self.settle().await;
        self.activators.iter().for_each(|activator| activator.function.overdue(Instant::now()));
        self.settle().await;
        let (mut lent, mut leased) = (0, 0);
        for activator in &self.activators {
            let (report, share) = (activator.function.report(), activator.function.share());
            assert_eq!((report.in_flight, report.held), (0, 0), "seed {seed}");
            (lent, leased) = (lent + share.lent, leased + share.leased);
        }
        assert_eq!(lent, leased, "seed {seed}: both sides know the same");
    }
}

fn see(activator: &Activator, pod: &str, ending: bool) {
    let observed = ObservedPod {
        function: FunctionKey::new("demo", "hello"),
        revision: "r1".into(),
        name: pod.into(),
        uid: pod.into(),
        scheduled: true,
        address: Some("127.0.0.1".parse().unwrap()),
        port: Some(1),
        ending,
        created: None,
        node_network: true,
        trouble: None,
    };
    if let Some(ToProbe(function, pod)) = activator.index.apply_pod(observed) {
        function.pod_answers(&pod, Instant::now());
    }
}

async fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for step in 0..STEPS {
        world.step().await;
        world.check(&format!("seed {seed}, step {step}"));
        if step % 150 == 149 {
            world.settle().await;
            world.check_at_rest(seed);
        }
    }
    world.end(seed).await;
}

#[tokio::test]
async fn the_limit_holds_and_no_request_waits_beside_a_free_slot() {
    LocalSet::new()
        .run_until(async {
            for seed in 0..60 {
                simulate(seed).await;
            }
        })
        .await;
}
