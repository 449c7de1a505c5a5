//! The test bed: one Function, an activator on a loopback port, and pods to add and take away.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilotlight_activator::{
    drain::{self, Rest},
    function::{FunctionState, Pokes, Process, Report},
    index::{Domains, Index, ToProbe},
    metrics::Metrics,
    probe,
    proxy::{Clients, Connections, Front, Limits, Port, Proxy, Sessions, TraceIds, Tunnels, serve},
    tls::{Redirect, Tls},
};
use pilotlight_crds::{Function, FunctionKey, FunctionSpec, FunctionStatus, ObservedPod, UrlScheme};
use prometheus::{IntCounterVec, IntGauge, Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// No test waits longer than this for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What the process may hold: requests and bytes.
const HOLDING: (u64, u64) = (10_000, 1 << 28);

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An activator that serves one Function.
pub(super) struct Bed {
    pub(super) addr: SocketAddr,
    /// Of the port with TLS, if there is one.
    pub(super) tls_addr: Option<SocketAddr>,
    pub(super) function: Arc<FunctionState>,
    pub(super) process: Arc<Process>,
    /// Limits that clients have reached.
    pub(super) reached: IntCounterVec,
    /// Open client connections.
    pub(super) connections: IntGauge,
    /// Open upgraded connections.
    pub(super) open_tunnels: IntGauge,
    stop: CancellationToken,
    tunnels: Tunnels,
    server: Mutex<Option<JoinHandle<Clients>>>,
    pub(super) index: Arc<Index>,
    _pokes: Pokes,
}

impl Bed {
    /// A Function `demo/hello` with a spec.
    pub(super) async fn new(spec: FunctionSpec) -> Self {
        Self::with_tls(spec, None, None).await
    }

    /// The same, for a process that may hold so many requests and bytes.
    pub(super) async fn holding(spec: FunctionSpec, requests: u64, bytes: u64) -> Self {
        Self::with(spec, (requests, bytes), None, None, |_| {}).await
    }

    /// The same, with other limits for clients.
    pub(super) async fn with_limits(spec: FunctionSpec, change: impl FnOnce(&mut Limits)) -> Self {
        Self::with(spec, HOLDING, None, None, change).await
    }

    /// The same, with a port for TLS, and with redirects to it.
    pub(super) async fn with_tls(spec: FunctionSpec, tls: Option<Tls>, redirect: Option<Redirect>) -> Self {
        Self::with(spec, HOLDING, tls, redirect, |_| {}).await
    }

    async fn with(
        spec: FunctionSpec,
        holding: (u64, u64),
        tls: Option<Tls>,
        redirect: Option<Redirect>,
        change: impl FnOnce(&mut Limits),
    ) -> Self {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let (process, pokes) = Process::new(holding.0, holding.1);
        let domains = Domains { outside: "example.org".into(), cluster: "cluster.local".into() };
        let index = Arc::new(Index::new(domains, metrics.clone(), Arc::clone(&process)));
        index.apply_function(&function("hello", spec));
        let sessions = Sessions { keys: None, store: None };
        let mut limits = Limits::new(1_000, &process, &metrics);
        change(&mut limits);
        let (reached, open) = (limits.reached.clone(), metrics.connections.clone());
        let open_tunnels = metrics.tunnels.clone();
        let tunnels = Tunnels::new(open_tunnels.clone());
        let proxy = Arc::new(Proxy {
            routes: index.routes(),
            process: Arc::clone(&process),
            metrics,
            sessions,
            trusted: Vec::new(),
            traces: TraceIds::default(),
            rate: limits.rate,
            redirect,
            tunnels: tunnels.clone(),
        });
        let (addr, plain) = port(Front::Plain(UrlScheme::Http)).await;
        let (tls_addr, tls) = match tls {
            Some(tls) => {
                let (addr, port) = port(Front::Tls(Arc::new(tls))).await;
                (Some(addr), Some(port))
            }
            None => (None, None),
        };
        let stop = CancellationToken::new();
        let connections = Connections::new(limits, stop.clone());
        let server = tokio::spawn(async move {
            let ports = [plain].into_iter().chain(tls);
            let serving = ports.map(|port| serve(port, Arc::clone(&proxy), &connections));
            futures_util::future::join_all(serving).await;
            connections.into_clients()
        });
        let server = Mutex::new(Some(server));
        let function = index.function(&FunctionKey::new("demo", "hello")).unwrap();
        Self {
            addr,
            tls_addr,
            function,
            process,
            reached,
            connections: open,
            open_tunnels,
            stop,
            tunnels,
            server,
            index,
            _pokes: pokes,
        }
    }

    /// Ends the activator as SIGTERM does, once its delay is over. Whether all ended well.
    pub(super) async fn end(&self, timeout: Duration) -> bool {
        self.process.set_leaving();
        self.stop.cancel();
        let server = self.server.lock().unwrap().take().unwrap();
        let (tunnels, index) = (self.tunnels.clone(), Arc::clone(&self.index));
        drain::finish(Rest { clients: server.await.unwrap(), tunnels, index }, timeout).await
    }

    /// One more Function, in the namespace `demo`.
    pub(super) fn add(&self, name: &str, spec: FunctionSpec) -> Arc<FunctionState> {
        self.index.apply_function(&function(name, spec));
        self.index.function(&FunctionKey::new("demo", name)).unwrap()
    }

    /// What a watch would say of a pod.
    pub(super) fn see(&self, pod: &Pod) {
        if let Some(ToProbe(function, pod)) = self.index.apply_pod(pod.observed.clone()) {
            probe::start(&function, pod);
        }
    }

    pub(super) fn report(&self) -> Report {
        self.function.report()
    }

    /// Waits until the report is as wanted.
    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Report) -> bool) {
        let began = Instant::now();
        while !condition(&self.report()) {
            assert!(began.elapsed() < PATIENCE, "{what}: {:?}", self.report());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until nothing is in flight.
    pub(super) async fn until_idle(&self) {
        self.until("nothing is in flight", |report| report.in_flight == 0).await;
    }

    /// Waits until nothing is accepted any longer.
    pub(super) async fn until_ending(&self) {
        self.stop.cancelled().await;
    }

    pub(super) async fn connect(&self) -> hyper::client::conn::http1::SendRequest<Body> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// GET on a connection of its own.
    pub(super) async fn get(&self, path: &str) -> Response<Bytes> {
        self.ask(get(path)).await
    }

    /// Any request on a connection of its own.
    pub(super) async fn ask(&self, request: Request<Body>) -> Response<Bytes> {
        let mut sender = self.connect().await;
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
        let (parts, body) = response.into_parts();
        Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    }
}

pub(super) fn function(name: &str, spec: FunctionSpec) -> Function {
    let mut function = Function::new(name, spec);
    function.metadata.namespace = Some("demo".into());
    function.metadata.uid = Some(format!("uid-of-{name}"));
    function.status = Some(FunctionStatus {
        revision: Some("r1".into()),
        latest_revision: Some("r1".into()),
        ..Default::default()
    });
    function
}

async fn port(front: Front) -> (SocketAddr, Port) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap(), Port { listener, front })
}

pub(super) fn get(path: &str) -> Request<Body> {
    get_from("hello", path)
}

pub(super) fn get_from(function: &str, path: &str) -> Request<Body> {
    let host = format!("{function}.demo.example.org");
    Request::get(path).header("host", host).body(full("")).unwrap()
}

pub(super) fn full(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed_unsync()
}

/// A pod: an HTTP server on a loopback port.
pub(super) struct Pod {
    pub(super) observed: ObservedPod,
    /// Requests that it has been asked.
    pub(super) asked: Arc<AtomicU32>,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl Pod {
    /// A pod that has an address, but on whose port nobody listens yet.
    pub(super) async fn deaf(name: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let observed = ObservedPod {
            function: FunctionKey::new("demo", "hello"),
            revision: "r1".into(),
            name: name.into(),
            uid: format!("uid-of-{name}"),
            scheduled: true,
            created: None,
            node_network: true,
            address: Some("127.0.0.1".parse().unwrap()),
            port: Some(port),
            ending: false,
            trouble: None,
        };
        Self { observed, asked: Arc::default(), server: None }
    }

    /// A pod whose every request is answered by `answer`.
    pub(super) async fn serving<F, A>(name: &str, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let mut pod = Self::deaf(name).await;
        pod.listen(answer).await;
        pod
    }

    pub(super) async fn listen<F, A>(&mut self, answer: F)
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let port = self.observed.port.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let asked = Arc::clone(&self.asked);
        self.server = Some(tokio::spawn(async move {
            // Its connections end with the server.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, asked) = (answer.clone(), Arc::clone(&asked));
                let service = service_fn(move |request| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                connections.spawn(connection.with_upgrades());
            }
        }));
    }

    /// A pod that speaks HTTP/2 with prior knowledge.
    pub(super) async fn serving_http2<F, A>(name: &str, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        Self::serving_http2_with(name, builder, answer).await
    }

    pub(super) async fn serving_http2_with<F, A>(
        name: &str,
        builder: hyper::server::conn::http2::Builder<TokioExecutor>,
        answer: F,
    ) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let mut pod = Self::deaf(name).await;
        let listener = TcpListener::bind(("127.0.0.1", pod.observed.port.unwrap())).await.unwrap();
        pod.server = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // As servers of HTTP/2 do: a window update must not wait for an acknowledgement.
                stream.set_nodelay(true).unwrap();
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                connections.spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        }));
        pod
    }

    /// Nobody listens any longer, and open connections are cut.
    pub(super) fn close(&mut self) {
        self.server.take().unwrap().abort();
    }

    pub(super) fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Answers `hello` after a while.
pub(super) fn after(
    pause: Duration,
) -> impl Fn(Request<Incoming>) -> futures_util::future::BoxFuture<'static, Response<Body>> + Clone {
    move |_| {
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            Response::new(full("hello"))
        })
    }
}
