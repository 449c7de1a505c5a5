//! Several activators in front of the same pods, with sockets between them. Each has a runtime of its own, so
//! that it can be killed: then its sockets are closed, as the kernel closes those of a process that is no more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join_all};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pilotlight_activator::{
    function::ObservedDeployment,
    metrics::PeerMetrics,
    peer::{Event, MemberId, PeerPod, Peers, SILENCE},
};
use pilotlight_crds::{ColdStart, ColdStartPhases, FunctionKey, FunctionSpec, Keys};
use prometheus::Registry;
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc::UnboundedSender};

use super::{
    Bed,
    bed::{self, Body, PATIENCE, Pod},
};

const SECRET: &str = "a secret that has enough characters";
/// Where silence is not what is tested, a machine that is busy with other things is no reason to fail.
const LONG: Duration = Duration::from_secs(15);

struct Activator {
    id: MemberId,
    bed: Bed,
    events: UnboundedSender<Event>,
    peer_pod: PeerPod,
    metrics: PeerMetrics,
    runtime: Option<Runtime>,
}

impl Activator {
    async fn new(name: &str, concurrency: u32, secret: &str, silence: Duration) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (id, keys) = (MemberId::from(name), Arc::new(Keys::parse(secret).unwrap()));
        let spec = FunctionSpec { concurrency, ..FunctionSpec::from_image("x") };
        let metrics = PeerMetrics::register(&Registry::new()).unwrap();
        let (me, counted) = (id.clone(), metrics.clone());
        let started = runtime.spawn(async move {
            let bed = Bed::new(spec).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let peer_pod = PeerPod { address: Some(listener.local_addr().unwrap()), ending: false };
            let (peers, events) = Peers::new(me, keys, Arc::clone(&bed.index), counted, silence);
            tokio::spawn(peers.run(listener));
            (bed, events, peer_pod)
        });
        let (bed, events, peer_pod) = started.await.unwrap();
        Self { id, bed, events, peer_pod, metrics, runtime: Some(runtime) }
    }

    /// What Kubernetes would say of the others.
    fn meet(&self, others: &[&Self]) {
        for other in others {
            self.events.send(Event::Pod(other.id.clone(), other.peer_pod)).unwrap();
        }
        self.events.send(Event::Listed).unwrap();
    }

    fn see(&self, pod: &Pod) {
        let _inside = self.runtime.as_ref().unwrap().enter();
        self.bed.see(pod);
    }

    fn live(&self) -> usize {
        let view = self.bed.process.view();
        if view.settled { view.peers.values().filter(|seat| seat.live).count() } else { usize::MAX }
    }

    fn owns(&self) -> bool {
        self.bed.function.observe(Instant::now()).owned
    }

    /// Does nothing for so long, as a process that is stopped or starved of its processor.
    fn hang(&self, pause: Duration) {
        self.runtime.as_ref().unwrap().spawn(async move { std::thread::sleep(pause) });
    }

    fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Activator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    began.elapsed()
}

/// Two activators that know each other: the owner of the function, and the other.
async fn two(concurrency: u32, silence: Duration) -> (Activator, Activator) {
    let a = Activator::new("a", concurrency, SECRET, silence).await;
    let b = Activator::new("b", concurrency, SECRET, silence).await;
    a.meet(&[&a, &b]);
    b.meet(&[&a, &b]);
    until("both know each other", || a.live() == 1 && b.live() == 1).await;
    until("there is one owner", || a.owns() != b.owns()).await;
    if a.owns() { (a, b) } else { (b, a) }
}

struct CountedOut(Arc<AtomicU32>);

impl Drop for CountedOut {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A pod that answers after a while, and the most requests that it had at once.
async fn counting(name: &str, pause: Duration) -> (Pod, Arc<AtomicU32>) {
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let seen = Arc::clone(&most);
    let answer = move |_: Request<Incoming>| -> BoxFuture<'static, Response<Body>> {
        let (now, seen) = (Arc::clone(&now), Arc::clone(&seen));
        Box::pin(async move {
            seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Also counted out if its caller is gone.
            let _in_flight = CountedOut(now);
            tokio::time::sleep(pause).await;
            Response::new(bed::full("hello"))
        })
    };
    (Pod::serving(name, answer).await, most)
}

/// `clients` callers with `count` requests each; the statuses.
async fn call(activator: &Activator, clients: usize, count: usize) -> Vec<StatusCode> {
    let client = async || {
        let mut statuses = Vec::new();
        for _ in 0..count {
            statuses.push(activator.bed.get("/").await.status());
        }
        statuses
    };
    join_all((0..clients).map(|_| client())).await.concat()
}

#[tokio::test]
async fn a_limit_holds_across_activators_and_nobody_starves() {
    for concurrency in [1, 3] {
        let (owner, other) = two(concurrency, LONG).await;
        let (pod, most) = counting("p", Duration::from_millis(1)).await;
        owner.see(&pod);
        other.see(&pod);
        let (one, two) = tokio::join!(call(&owner, 8, 40), call(&other, 8, 40));
        assert!(one.iter().chain(&two).all(|status| *status == StatusCode::OK));
        assert_eq!(most.load(Ordering::SeqCst), concurrency, "as many as may be, and no more");
        until("all is given back or idle", || {
            let (lent, leased) = (owner.bed.function.share().lent, other.bed.function.share().leased);
            lent == leased && owner.bed.report().in_flight + other.bed.report().in_flight == 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_limit_that_does_not_bind_costs_one_round_trip_and_no_more() {
    let (owner, other) = two(100, LONG).await;
    let (pod, _) = counting("p", Duration::ZERO).await;
    owner.see(&pod);
    other.see(&pod);
    other.bed.until("the pod answers", |report| report.ready == 1).await;
    assert!(other.bed.get("/").await.headers().contains_key("pilotlight-held-ms"), "it had to ask");
    assert!(
        other.bed.function.share().leased > 40,
        "and was given a share: {:?}",
        other.bed.function.share()
    );
    let mut held = 0;
    for _ in 0..50 {
        held += u32::from(other.bed.get("/").await.headers().contains_key("pilotlight-held-ms"));
    }
    assert_eq!(held, 0);
}

#[tokio::test]
async fn without_a_limit_nothing_is_lent_and_the_owner_knows_the_load() {
    let (owner, other) = two(0, LONG).await;
    let (pod, _) = counting("p", Duration::from_secs(60)).await;
    other.see(&pod);
    other.bed.until("the pod answers", |report| report.ready == 1).await;
    let request = other.bed.get("/");
    let check =
        until("the owner knows of it", || owner.bed.function.observe(Instant::now()).seen.in_flight == 1);
    tokio::select! { _ = request => panic!("it takes a minute"), _ = check => {} }
    assert_eq!((owner.bed.function.share().lent, owner.bed.report().in_flight), (0, 0));
    until("it has been let go", || owner.bed.function.observe(Instant::now()).seen.in_flight == 0).await;
}

#[tokio::test]
async fn a_killed_peer_is_noticed_at_once_and_its_slots_are_free() {
    let (mut owner, mut other) = two(2, LONG).await;
    let (pod, most) = counting("p", Duration::from_millis(300)).await;
    owner.see(&pod);
    other.see(&pod);
    tokio::select! {
        _ = call(&other, 2, 1) => panic!("too early"),
        _ = until("its requests are in flight", || other.bed.report().in_flight == 2) => {}
    }
    other.kill();
    let noticed = until("it is noticed", || owner.live() == 0).await;
    assert!(noticed < Duration::from_secs(1), "{noticed:?}");
    assert!(call(&owner, 4, 1).await.iter().all(|status| *status == StatusCode::OK));
    assert_eq!(most.load(Ordering::SeqCst), 2);
    owner.kill();
}

#[tokio::test]
async fn a_peer_that_hangs_is_noticed_after_a_second_and_is_back_when_it_is_heard() {
    let (owner, other) = two(1, SILENCE).await;
    let (pod, _) = counting("p", Duration::from_millis(1)).await;
    owner.see(&pod);
    other.see(&pod);
    other.bed.until("the pod answers", |report| report.ready == 1).await;
    owner.hang(SILENCE * 4);
    let noticed = until("it is noticed", || other.owns() && other.live() == 0).await;
    assert!(noticed < SILENCE * 2, "{noticed:?}");
    assert_eq!(call(&other, 1, 3).await, [StatusCode::OK; 3], "the other serves meanwhile");
    until("it is back", || other.live() == 1 && !other.owns() && owner.owns()).await;
    assert_eq!(call(&other, 1, 3).await, [StatusCode::OK; 3]);
}

#[tokio::test]
async fn when_the_owner_is_killed_the_other_takes_over_and_loses_nothing() {
    let (mut owner, other) = two(2, LONG).await;
    let (pod, most) = counting("p", Duration::from_millis(20)).await;
    owner.see(&pod);
    other.see(&pod);
    let load = call(&other, 6, 30);
    let kill = async {
        until("it is in use", || other.bed.report().in_flight > 0).await;
        owner.kill();
        let noticed = until("the other takes over", || other.owns()).await;
        assert!(noticed < Duration::from_secs(1), "{noticed:?}");
    };
    let (statuses, ()) = tokio::join!(load, kill);
    assert!(statuses.iter().all(|status| *status == StatusCode::OK), "{statuses:?}");
    assert!(most.load(Ordering::SeqCst) <= 2);
}

#[tokio::test]
async fn who_leaves_hands_over_and_serves_on() {
    let (owner, other) = two(1, LONG).await;
    let (pod, most) = counting("p", Duration::from_millis(2)).await;
    owner.see(&pod);
    other.see(&pod);
    let leave = async {
        until("it is in use", || owner.bed.report().in_flight > 0).await;
        owner.bed.process.set_leaving();
        until("the other owns it", || other.owns() && !owner.owns()).await;
    };
    let (one, two, ()) = tokio::join!(call(&owner, 3, 40), call(&other, 3, 40), leave);
    assert!(one.iter().chain(&two).all(|status| *status == StatusCode::OK));
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_third_joins_under_load() {
    let (owner, other) = two(2, LONG).await;
    let (pod, most) = counting("p", Duration::from_millis(2)).await;
    let third = Activator::new("c", 2, SECRET, LONG).await;
    [&owner, &other, &third].iter().for_each(|activator| activator.see(&pod));
    let join = async {
        until("it is in use", || owner.bed.report().in_flight > 0).await;
        [&owner, &other, &third].iter().for_each(|one| one.meet(&[&owner, &other, &third]));
        until("all know each other", || [&owner, &other, &third].iter().all(|one| one.live() == 2)).await;
        call(&third, 3, 30).await
    };
    let (one, two, three) = tokio::join!(call(&owner, 3, 60), call(&other, 3, 60), join);
    assert!(one.iter().chain(&two).chain(&three).all(|status| *status == StatusCode::OK));
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn another_secret_makes_no_peer() {
    let a = Activator::new("a", 1, SECRET, SILENCE).await;
    let b = Activator::new("b", 1, "another secret of enough characters", SILENCE).await;
    a.meet(&[&b]);
    b.meet(&[&a]);
    let refused = b.metrics.refused.with_label_values(&["other-secret"]);
    until("it is refused and counted", || refused.get() > 0).await;
    until("each is alone", || a.live() == 0 && b.live() == 0 && a.owns() && b.owns()).await;
}

fn scaled(activator: &Activator, replicas: u32) {
    activator.bed.index.apply_deployment(
        "demo".into(),
        "hello-r1".into(),
        ObservedDeployment {
            function: FunctionKey::new("demo", "hello"),
            revision: "r1".into(),
            replicas,
            version: "7".into(),
            trouble: None,
        },
    );
}

#[tokio::test]
async fn a_pod_goes_only_when_no_activator_uses_it() {
    let (owner, other) = two(0, LONG).await;
    let (pod, _) = counting("p", Duration::from_millis(300)).await;
    owner.see(&pod);
    other.see(&pod);
    scaled(&owner, 1);
    other.bed.until("the pod answers", |report| report.ready == 1).await;
    owner.bed.until("the pod answers", |report| report.ready == 1).await;
    let retire = async {
        until("it is in use", || other.bed.report().in_flight == 1).await;
        assert_eq!(owner.bed.function.retire(0, Instant::now()), None, "nobody has asked the other yet");
        other.bed.until("it takes no more there", |report| report.ready == 0).await;
        assert_eq!(owner.bed.function.retire(0, Instant::now()), None);
        until("it has ended", || other.bed.report().in_flight == 0).await;
        until("it may go", || owner.bed.function.retire(0, Instant::now()).is_some()).await;
    };
    let (answer, ()) = tokio::join!(other.bed.get("/"), retire);
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn after_a_change_of_the_limit_a_pod_goes_as_before() {
    let (owner, other) = two(2, LONG).await;
    let (pod, _) = counting("p", Duration::ZERO).await;
    [&owner, &other].iter().for_each(|one| one.see(&pod));
    scaled(&owner, 1);
    owner.bed.until("the pod answers", |report| report.ready == 1).await;
    other.bed.until("the pod answers", |report| report.ready == 1).await;
    // Nobody calls: only the change itself can make them talk.
    for one in [&owner, &other] {
        let spec = FunctionSpec { concurrency: 9, ..FunctionSpec::from_image("x") };
        one.bed.index.apply_function(&bed::function("hello", spec));
    }
    until("it may go", || owner.bed.function.retire(0, Instant::now()).is_some()).await;
}

#[tokio::test]
async fn nobody_scales_a_function_that_was_deleted() {
    let (owner, _other) = two(1, LONG).await;
    scaled(&owner, 1);
    assert!(owner.owns());
    owner.bed.index.delete_function(&FunctionKey::new("demo", "hello"));
    assert!(!owner.owns(), "or its Deployment, which is gone as well, would be asked for without end");
}

#[tokio::test]
async fn a_new_owner_knows_the_last_cold_start_from_the_status() {
    let (owner, other) = two(1, LONG).await;
    let mut function =
        bed::function("hello", FunctionSpec { concurrency: 1, ..FunctionSpec::from_image("x") });
    let cold_start = |second| ColdStart {
        time: Time(Timestamp::from_second(second).unwrap()),
        revision: "r1".into(),
        pod: "p".into(),
        milliseconds: ColdStartPhases::default(),
    };
    for (second, expected) in [(100, 100), (200, 200), (150, 200)] {
        function.status.as_mut().unwrap().last_cold_start = Some(cold_start(second));
        other.bed.index.apply_function(&function);
        assert_eq!(other.bed.report().cold_start, Some(cold_start(expected)));
    }
    assert_eq!(owner.bed.report().cold_start, None);
}
