//! What a lease costs: a request at an activator that does not own the function, with a lease at hand and
//! without. Two activators of this process, one pod, connected over loopback.
//! `cargo run --release -p pilotlight-activator --example leases`

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use pilotlight_activator::{
    function::{FunctionState, Pokes, Process, Wish},
    index::{Domains, Index, ToProbe},
    metrics::Metrics,
    peer::{Event, PeerMetrics, PeerPod, Peers, SILENCE},
};
use pilotlight_crds::{Function, FunctionKey, FunctionSpec, FunctionStatus, Keys, ObservedPod};
use prometheus::Registry;
use tokio::{net::TcpListener, sync::mpsc::UnboundedSender};

const ROUNDS: usize = 5_000;

struct Activator {
    function: Arc<FunctionState>,
    process: Arc<Process>,
    events: UnboundedSender<Event>,
    peer_pod: PeerPod,
    _pokes: Pokes,
}

async fn activator(name: &str) -> anyhow::Result<Activator> {
    let (process, pokes) = Process::new(100, 1 << 20);
    let domains = Domains { outside: "example.org".into(), cluster: "cluster.local".into() };
    let registry = Registry::new();
    let index = Arc::new(Index::new(domains, Metrics::register(&registry)?, Arc::clone(&process)));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let peer_pod = PeerPod { address: Some(listener.local_addr()?), ending: false };
    let keys = Arc::new(Keys::parse("only for this, and long enough for it")?);
    let metrics = PeerMetrics::register(&registry)?;
    let (peers, events) = Peers::new(name.into(), keys, Arc::clone(&index), metrics, SILENCE);
    tokio::spawn(peers.run(listener));

    let key = FunctionKey::new("demo", "hello");
    let mut function =
        Function::new("hello", FunctionSpec { concurrency: 1, ..FunctionSpec::from_image("x") });
    function.metadata.namespace = Some("demo".into());
    function.status = Some(FunctionStatus { revision: Some("r".into()), ..Default::default() });
    index.apply_function(&function);
    let pod = ObservedPod {
        function: key.clone(),
        revision: "r".into(),
        name: "pod".into(),
        uid: "pod".into(),
        scheduled: true,
        address: Some(Ipv4Addr::LOCALHOST.into()),
        port: Some(1),
        ending: false,
        created: None,
        node_network: true,
        trouble: None,
    };
    let ToProbe(function, pod) = index.apply_pod(pod).context("the pod has an address")?;
    function.pod_answers(&pod, Instant::now());
    Ok(Activator { function, process, events, peer_pod, _pokes: pokes })
}

/// Takes a slot and gives it back; how long that took.
async fn request(at: &Activator) -> anyhow::Result<Duration> {
    let began = Instant::now();
    drop(at.function.acquire(Wish::default()).await?);
    Ok(began.elapsed())
}

fn show(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |share: f64| took[(took.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("{what:<60} p50 {:>7.1} us   p99 {:>7.1} us", at(0.5), at(0.99));
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (a, b) = (activator("a").await?, activator("b").await?);
    for (one, id, other) in [(&a, "b", &b), (&b, "a", &a)] {
        one.events.send(Event::Pod(id.into(), other.peer_pod))?;
        one.events.send(Event::Listed)?;
    }
    let began = Instant::now();
    while !(a.process.view().peers.len() == 1 && b.process.view().peers.len() == 1) {
        ensure!(began.elapsed() < Duration::from_secs(10), "the two do not meet");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let a_owns = a.function.observe(Instant::now()).owned;
    let (owner, other) = if a_owns { (a, b) } else { (b, a) };

    let (mut at_hand, mut asked, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // Each time the owner takes the only slot back, and the other has to ask for it.
        owners.push(request(&owner).await?);
        asked.push(request(&other).await?);
        at_hand.push(request(&other).await?);
    }
    show("at another activator, with a lease at hand", at_hand);
    show("at another activator, which has to ask the owner", asked);
    show("at the owner, which has to ask the slot back", owners);
    Ok(())
}
