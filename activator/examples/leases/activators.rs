//! Activators in this process that share one function, connected over loopback.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use pilotlight_activator::{
    function::{FunctionState, Pokes, Process},
    index::{Domains, Index, ToProbe},
    metrics::{Metrics, PeerMetrics},
    peer::{Event, PeerPod, Peers, SILENCE},
};
use pilotlight_crds::{Function, FunctionKey, FunctionSpec, FunctionStatus, Keys, ObservedPod};
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc::{self, UnboundedSender},
    time::{sleep, sleep_until},
};

/// One activator, as far as slots are concerned.
pub(crate) struct Activator {
    pub(crate) function: Arc<FunctionState>,
    pub(crate) process: Arc<Process>,
    name: String,
    events: UnboundedSender<Event>,
    peer_pod: PeerPod,
    _pokes: Pokes,
}

/// What the function is.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) pods: usize,
    pub(crate) concurrency: u32,
}

impl Activator {
    async fn new(name: &str, shape: Shape, delay: Duration) -> anyhow::Result<Self> {
        let (process, pokes) = Process::new(1 << 20, 1 << 30);
        let domains = Domains { outside: "example.org".into(), cluster: "cluster.local".into() };
        let registry = Registry::new();
        let index = Arc::new(Index::new(domains, Metrics::register(&registry)?, Arc::clone(&process)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut address = listener.local_addr()?;
        if !delay.is_zero() {
            address = slow_way_to(address, delay).await?;
        }
        let keys = Arc::new(Keys::parse("only for this and long enough for it")?);
        let metrics = PeerMetrics::register(&registry)?;
        let (peers, events) = Peers::new(name.into(), keys, Arc::clone(&index), metrics, SILENCE);
        tokio::spawn(peers.run(listener));
        let peer_pod = PeerPod { address: Some(address), ending: false };
        let function = deploy(&index, shape)?;
        Ok(Self { function, process, name: name.into(), events, peer_pod, _pokes: pokes })
    }

    pub(crate) fn owns(&self) -> bool {
        self.function.observe(Instant::now()).owned
    }
}

/// `count` activators that know each other, the owner of the function first. What they tell each other takes
/// `delay`.
pub(crate) async fn activators(
    count: usize,
    shape: Shape,
    delay: Duration,
) -> anyhow::Result<Vec<Activator>> {
    let mut all = Vec::new();
    for number in 0..count {
        all.push(Activator::new(&format!("activator-{number}"), shape, delay).await?);
    }
    for one in &all {
        for other in all.iter().filter(|other| other.name != one.name) {
            one.events.send(Event::Pod(other.name.as_str().into(), other.peer_pod))?;
        }
        one.events.send(Event::Listed)?;
    }
    let began = Instant::now();
    let met = |one: &Activator| {
        let view = one.process.view();
        view.settled && view.peers.len() == count - 1
    };
    while !all.iter().all(met) || all.iter().filter(|one| one.owns()).count() != 1 {
        ensure!(began.elapsed() < Duration::from_secs(10), "they do not meet");
        sleep(Duration::from_millis(10)).await;
    }
    all.sort_by_key(|one| !one.owns());
    Ok(all)
}

fn deploy(index: &Index, shape: Shape) -> anyhow::Result<Arc<FunctionState>> {
    let spec = FunctionSpec { concurrency: shape.concurrency, ..FunctionSpec::from_image("x") };
    let mut function = Function::new("hello", spec);
    function.metadata.namespace = Some("demo".into());
    function.status = Some(FunctionStatus { revision: Some("r".into()), ..Default::default() });
    index.apply_function(&function);
    let key = FunctionKey::new("demo", "hello");
    for number in 0..shape.pods {
        let pod = ObservedPod {
            function: key.clone(),
            revision: "r".into(),
            name: format!("pod-{number}"),
            uid: format!("pod-{number}"),
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
    }
    index.function(&key).context("the function is there")
}

/// An address from which all goes on to `target`, `delay` later.
async fn slow_way_to(target: SocketAddr, delay: Duration) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((from, _)) = listener.accept().await {
            let Ok(to) = TcpStream::connect(target).await else { continue };
            let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
            relay(from_read, to_write, delay);
            relay(to_read, from_write, delay);
        }
    });
    Ok(address)
}

fn relay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let _ = to.as_ref().set_nodelay(true);
    let (sender, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let _ = sender.send((Instant::now() + delay, buffer[..count].to_vec()));
        }
    });
    tokio::spawn(async move {
        while let Some((due, bytes)) = under_way.recv().await {
            sleep_until(due.into()).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
}
