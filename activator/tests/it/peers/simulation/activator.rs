//! One of the activators, and what it does by itself.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc, time::Instant};

use pilotlight_activator::{
    function::{
        Acquired, FunctionState, ObservedDeployment, Outbox, PeerView, Pokes, Process, ScaleDown, Wish,
    },
    index::{Domains, Index, ToProbe},
    metrics::Metrics,
    peer::{MemberId, Seat, View},
};
use pilotlight_crds::{Function, FunctionKey, FunctionSpec, FunctionStatus, ObservedPod};
use prometheus::Registry;
use tokio::task::JoinHandle;

/// An activator as the others are to learn of it.
pub(super) struct Activator {
    pub(super) id: MemberId,
    pub(super) function: Arc<FunctionState>,
    /// What it knows: sessions of its peers, whether they are heard, and whether they leave.
    pub(super) seats: BTreeMap<MemberId, Seat<Outbox>>,
    pub(super) leaving: bool,
    pub(super) in_flight: Rc<RefCell<Vec<Acquired>>>,
    pub(super) waiting: Vec<JoinHandle<()>>,
    process: Arc<Process>,
    index: Index,
    pokes: Pokes,
}

impl Activator {
    pub(super) fn new(id: usize, limit: u32) -> Self {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let (process, pokes) = Process::new(10_000, 1 << 28);
        let domains = Domains { outside: "example.org".into(), cluster: "cluster.local".into() };
        let id: MemberId = format!("activator-{id}").into();
        let unsettled = View { me: Some(id.clone()), settled: false, ..View::alone() };
        process.set_view(Arc::new(unsettled));
        let index = Index::new(domains, metrics, Arc::clone(&process));
        index.apply_function(&function(limit));
        let function = index.function(&key()).unwrap();
        let (seats, in_flight, waiting) = (BTreeMap::new(), Rc::default(), Vec::new());
        Self { id, function, seats, leaving: false, in_flight, waiting, process, index, pokes }
    }

    /// What it knows of its peers has changed.
    pub(super) fn follow(&self) {
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
    pub(super) fn request(&mut self) {
        let (function, in_flight) = (Arc::clone(&self.function), Rc::clone(&self.in_flight));
        self.waiting.push(tokio::task::spawn_local(async move {
            if let Ok(acquired) = function.acquire(Wish::default()).await {
                in_flight.borrow_mut().push(acquired);
            }
        }));
    }

    pub(super) fn used(&self, pod: &str) -> u32 {
        self.in_flight.borrow().iter().filter(|acquired| acquired.slot.pod().uid == pod).count() as u32
    }

    pub(super) fn configure(&self, limit: u32) {
        self.index.apply_function(&function(limit));
    }

    pub(super) fn scaled(&self, replicas: usize) {
        let deployment = ObservedDeployment {
            function: key(),
            revision: "r1".into(),
            replicas: replicas as u32,
            version: "1".into(),
            trouble: None,
        };
        self.index.apply_deployment("demo".into(), "hello-r1".into(), deployment);
    }

    /// What the watch says of a pod, which answers as soon as it is asked.
    pub(super) fn see(&self, pod: &str, ending: bool) {
        if let Some(ToProbe(function, pod)) = self.see_unasked(pod, ending) {
            function.pod_answers(&pod, Instant::now());
        }
    }

    /// What the watch says of a pod, of which it has yet to be found out whether it answers.
    pub(super) fn see_unasked(&self, pod: &str, ending: bool) -> Option<ToProbe> {
        let observed = ObservedPod {
            function: key(),
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
        self.index.apply_pod(observed)
    }

    /// A pod is no more, and neither are the requests in it.
    pub(super) fn lose(&self, pod: &str) {
        self.index.delete_pod(pod);
        self.in_flight.borrow_mut().retain(|acquired| acquired.slot.pod().uid != pod);
    }

    /// Whether the autoscaler was asked to look, since this was asked.
    pub(super) fn is_poked(&mut self) -> bool {
        std::iter::from_fn(|| self.pokes.try_recv().ok()).count() > 0
    }

    /// What the autoscaler does, and when: only if it was asked to look, and only as the owner.
    pub(super) fn autoscale(&mut self, wanted: usize) -> Option<ScaleDown> {
        let poked = self.is_poked();
        self.function.looked_at();
        let observed = self.function.observe(Instant::now());
        if !poked || !observed.owned {
            return None;
        }
        let wanted = if observed.seen.blind { observed.seen.replicas } else { wanted as u32 };
        self.function.retire(wanted, Instant::now())
    }
}

fn key() -> FunctionKey {
    FunctionKey::new("demo", "hello")
}

fn function(limit: u32) -> Function {
    let spec = FunctionSpec { concurrency: limit, ..FunctionSpec::from_image("x") };
    let mut function = Function::new("hello", spec);
    function.metadata.namespace = Some("demo".into());
    function.status = Some(FunctionStatus {
        revision: Some("r1".into()),
        latest_revision: Some("r1".into()),
        ..Default::default()
    });
    function
}
