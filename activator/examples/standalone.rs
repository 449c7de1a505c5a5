//! The activator without Kubernetes: Functions and their pods come from the command line, and nothing scales
//! them. Requests take the product's own path, so that it can be measured and profiled by itself.
//!
//! `cargo run --example standalone -- --addr 127.0.0.1:8080 demo/hello=127.0.0.1:9000`
//! answers `curl -H 'Host: hello.demo' http://127.0.0.1:8080/` from the server on port 9000.

use std::{net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use pilotlight_activator::{
    drain::{self, Rest},
    function::Process,
    index::{Domains, Index, ToProbe},
    memory,
    metrics::Metrics,
    probe,
    proxy::{Connections, Front, Limits, Port, Proxy, Sessions, TraceIds, Tunnels, serve},
    telemetry,
};
use pilotlight_crds::{
    Bytes, Function, FunctionKey, FunctionSpec, FunctionStatus, ObservedPod, Protocol, UrlScheme,
};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The one revision that there is.
const REVISION: &str = "r1";

/// The activator without Kubernetes
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Where requests come in
    #[arg(long)]
    addr: SocketAddr,
    /// The most in flight per pod; 0: no limit
    #[arg(long, default_value_t = 0)]
    concurrency: u32,
    /// Pods speak HTTP/2
    #[arg(long)]
    h2c: bool,
    /// Memory to keep below, such as 64Mi
    #[arg(long)]
    memory_budget: Option<Bytes>,
    /// What to log
    #[arg(long, default_value = "warn")]
    log: String,
    /// NAMESPACE/NAME=ADDRESS:PORT,...: a Function, and the pods that it has, if any
    #[arg(required = true)]
    functions: Vec<Served>,
}

/// A Function and its pods.
#[derive(Clone, Debug)]
struct Served {
    key: FunctionKey,
    pods: Vec<SocketAddr>,
}

impl FromStr for Served {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (key, pods) = text.split_once('=').context("not NAMESPACE/NAME=ADDRESS:PORT,...")?;
        let (namespace, name) = key.split_once('/').context("no NAMESPACE/ before the name")?;
        let pods = pods
            .split(',')
            .filter(|pod| !pod.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .context("not ADDRESS:PORT")?;
        Ok(Self { key: FunctionKey::new(namespace, name), pods })
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init(&args.log)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(args))
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let metrics = Metrics::register(&Registry::new())?;
    let (process, _pokes) = Process::new(10_000, 256 << 20);
    let domains = Domains { outside: "pilotlight.local".into(), cluster: "cluster.local".into() };
    let index = Arc::new(Index::new(domains, metrics.clone(), Arc::clone(&process)));
    for served in &args.functions {
        add(&index, served, &args);
    }
    let stop = CancellationToken::new();
    let told = tokio::spawn(drain::until_told(Arc::clone(&process), Duration::ZERO, stop.clone()));
    let limits = Limits::new(20_000, &process, &metrics);
    if let Some(budget) = args.memory_budget {
        let memory = Arc::clone(process.memory());
        memory::watch(memory, budget.get(), metrics.shortage.clone())?;
    }
    let tunnels = Tunnels::new(metrics.tunnels.clone());
    let proxy = Arc::new(Proxy {
        routes: index.routes(),
        process,
        metrics,
        sessions: Sessions { keys: None, store: None },
        trusted: Vec::new(),
        traces: TraceIds::default(),
        rate: limits.rate,
        redirect: None,
        tunnels: tunnels.clone(),
    });
    let listener = TcpListener::bind(args.addr).await.context("--addr")?;
    let connections = Connections::new(limits, stop);
    serve(Port { listener, front: Front::Plain(UrlScheme::Http) }, proxy, &connections).await;
    told.await??;
    let rest = Rest { clients: connections.into_clients(), tunnels, index };
    drain::finish(rest, Duration::from_secs(1)).await;
    Ok(())
}

/// Tells the index what watches would.
fn add(index: &Index, Served { key, pods }: &Served, args: &Args) {
    let protocol = if args.h2c { Protocol::H2c } else { Protocol::Http1 };
    let spec = FunctionSpec { concurrency: args.concurrency, protocol, ..FunctionSpec::from_image("none") };
    let mut function = Function::new(&key.name, spec);
    function.metadata.namespace = Some(key.namespace.clone());
    function.status = Some(FunctionStatus {
        revision: Some(REVISION.into()),
        latest_revision: Some(REVISION.into()),
        ..FunctionStatus::default()
    });
    index.apply_function(&function);
    for (number, address) in pods.iter().enumerate() {
        let pod = ObservedPod {
            function: key.clone(),
            revision: REVISION.into(),
            name: format!("{}-{number}", key.name),
            uid: format!("{key}-{number}"),
            scheduled: true,
            created: None,
            node_network: true,
            address: Some(address.ip()),
            port: Some(address.port()),
            ending: false,
            trouble: None,
        };
        if let Some(ToProbe(function, pod)) = index.apply_pod(pod) {
            probe::start(&function, pod);
        }
    }
}
