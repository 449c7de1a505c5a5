//! Wires the parts together. Everything that can fail to start fails here, before requests come in.

use std::sync::Arc;

use anyhow::Context as _;
use futures_util::{FutureExt as _, future::join_all};
use http::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use kube::Client;
use pilotlight_crds::UrlScheme;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin},
    autoscaler::Autoscaler,
    config::{Config, TlsConfig},
    drain::{self, Rest},
    function::Process,
    index::{Index, watch},
    memory,
    metrics::{Metrics, PeerMetrics, StoreMetrics, TlsMetrics},
    peer::{PeerConfig, Peers, SILENCE},
    proxy::{
        Connections, Front, Limits, Port, Proxy, RequestBody, Sessions, TraceIds, Tunnels, serve, serve_with,
    },
    session::{self, DEFAULT_BUDGET, StateApi, Store},
    status,
    tls::{Certificates, HANDSHAKE_TIMEOUT, Redirect, Served, Tls, watch::start_watch},
};

/// Runs the activator until it is told to end and has ended its requests.
///
/// # Errors
/// When a port cannot be bound, Redis' URL is malformed, or there is no way to an API server.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("no way to an API server")?;
    let registry = Registry::new();
    let metrics = Metrics::register(&registry)?;
    let (process, pokes) = Process::new(config.hold_requests, config.hold_bytes);
    let index = Arc::new(Index::new(config.domains.clone(), metrics.clone(), Arc::clone(&process)));
    let peers = peers(&config, &index, &registry).await?;
    let sessions = sessions(&config, &registry)?;
    let listener = bind(config.addr).await?;
    let synced = watch::start_watches(&client, &index, &metrics);
    let tls = match &config.tls {
        Some(tls) => Some(TlsPort::open(tls, &client, &registry, &metrics).await?),
        None => None,
    };
    let synced = synced.and(tls.iter().flat_map(|tls| tls.synced.clone()));
    if let Some((peers, listener, peer_config)) = peers {
        peers.start(listener, &client, &peer_config, &metrics);
    }
    serve_admin(
        &config,
        Admin { registry, index: Arc::clone(&index), synced: synced.clone(), process: Arc::clone(&process) },
    )
    .await?;
    serve_state(&config, &sessions, &index, limits(&config, &process, &metrics)).await?;
    tokio::spawn(Autoscaler::new(client.clone()).run(pokes));
    tokio::spawn(status::run(client, Arc::clone(&index)));

    let stop = CancellationToken::new();
    let told = tokio::spawn(drain::until_told(Arc::clone(&process), config.drain_delay, stop.clone()));
    let limits = limits(&config, &process, &metrics);
    if let Some(budget) = config.memory_budget {
        memory::watch(Arc::clone(process.memory()), budget, metrics.shortage.clone())?;
    }
    let (tls, redirect) = tls.map_or((None, None), |tls| (Some(tls.port), tls.redirect));
    let tunnels = Tunnels::new(metrics.tunnels.clone());
    let proxy = Arc::new(Proxy {
        routes: index.routes(),
        process,
        metrics,
        sessions,
        trusted: config.trusted_proxies,
        traces: TraceIds::new(config.sample_traces),
        rate: config.rate,
        redirect,
        tunnels: tunnels.clone(),
    });
    // Whoever connects before the routes are known waits to be accepted, rather than hear of no function.
    tokio::select! { () = synced.wait() => {}, () = stop.cancelled() => {} }
    tracing::info!(addr = %config.addr, "serving");
    let connections = Connections::new(limits, stop);
    let plain = Port { listener, front: Front::Plain(config.scheme) };
    let ports = [plain].into_iter().chain(tls);
    join_all(ports.map(|port| serve(port, Arc::clone(&proxy), &connections))).await;
    told.await??;
    let rest = Rest { clients: connections.into_clients(), tunnels, index };
    drain::finish(rest, config.drain_timeout).await;
    Ok(())
}

fn limits(config: &Config, process: &Process, metrics: &Metrics) -> Limits {
    Limits {
        from_one_address: config.max_connections_per_address,
        clocks: config.clocks,
        rate: config.rate,
        ..Limits::new(config.max_connections, process, metrics)
    }
}

/// The port with TLS, and what feeds it.
struct TlsPort {
    port: Port,
    redirect: Option<Redirect>,
    /// `true` once the Secrets were asked for.
    synced: Vec<tokio::sync::watch::Receiver<bool>>,
}

impl TlsPort {
    async fn open(
        config: &TlsConfig,
        client: &Client,
        registry: &Registry,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let listener = bind(config.addr).await?;
        let certificates = Arc::new(Certificates::new(&config.secrets));
        let served = Served { certificates, metrics: TlsMetrics::register(registry)? };
        let errors = metrics.watch_errors.with_label_values(&["secrets"]);
        let follow = |secret: &String| start_watch(client, secret.clone(), served.clone(), errors.clone());
        let synced = config.secrets.iter().map(follow).collect();
        let Served { certificates, metrics } = served;
        let redirect =
            config.redirect_port.map(|port| Redirect { certificates: Arc::clone(&certificates), port });
        let tls = Tls::new(certificates, HANDSHAKE_TIMEOUT, metrics)?;
        tracing::info!(addr = %config.addr, secrets = ?config.secrets, "serving TLS");
        Ok(Self { port: Port { listener, front: Front::Tls(Arc::new(tls)) }, redirect, synced })
    }
}

/// The other activators; none where nothing says which they are, or nothing tells them from strangers.
async fn peers(
    config: &Config,
    index: &Arc<Index>,
    registry: &Registry,
) -> anyhow::Result<Option<(Peers, TcpListener, PeerConfig)>> {
    let metrics = PeerMetrics::register(registry)?;
    let Some(peer_config) = config.peers.clone() else { return Ok(None) };
    let Some(keys) = config.keys.clone() else {
        tracing::warn!("PILOTLIGHT_KEYS is not set: this activator works alone, and must be the only one");
        return Ok(None);
    };
    let listener = bind(config.peer_addr).await?;
    let me = peer_config.uid.as_str().into();
    let (peers, _) = Peers::new(me, keys, Arc::clone(index), metrics, SILENCE);
    Ok(Some((peers, listener, peer_config)))
}

async fn bind(addr: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("cannot listen on {addr}"))
}

fn sessions(config: &Config, registry: &Registry) -> anyhow::Result<Sessions> {
    let metrics = StoreMetrics::register(registry)?;
    let store =
        config.redis_url.as_deref().map(|url| Store::open(url, DEFAULT_BUDGET, metrics)).transpose()?;
    Ok(Sessions { keys: config.keys.clone(), store })
}

async fn serve_admin(config: &Config, admin: Admin) -> anyhow::Result<()> {
    let listener = bind(config.admin_addr).await?;
    let app = admin::router(admin);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(())
}

/// The state API needs keys to tell functions apart; without them it is not there.
async fn serve_state(
    config: &Config,
    sessions: &Sessions,
    index: &Arc<Index>,
    limits: Limits,
) -> anyhow::Result<()> {
    let Some(keys) = sessions.keys.clone() else { return Ok(()) };
    let listener = bind(config.state_addr).await?;
    let index = Arc::clone(index);
    let ttl = move |key: &pilotlight_crds::FunctionKey| {
        let config = index.function(key)?.config();
        config.session.as_ref().map(|session| session.cookie.ttl.get())
    };
    let app = session::router(StateApi::new(sessions.store.clone(), keys, Arc::new(ttl)));
    // It goes on to the end: requests in flight may need their sessions while the process drains.
    let connections = Connections::new(limits, CancellationToken::new());
    let port = Port { listener, front: Front::Plain(UrlScheme::Http) };
    tokio::spawn(async move {
        serve_with(port, &connections, move |_| {
            let app = TowerToHyperService::new(app.clone());
            move |request: Box<Request<RequestBody>>| app.call(*request).map(|Ok(response)| response)
        })
        .await;
    });
    Ok(())
}
