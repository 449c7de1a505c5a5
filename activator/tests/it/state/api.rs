//! The state API served on a loopback port, and a client of it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode, header::AUTHORIZATION};
use hyper_util::rt::TokioIo;
use pilotlight_activator::{
    metrics::StoreMetrics,
    session::{DEFAULT_BUDGET, StateApi, Store, router},
};
use pilotlight_crds::{FunctionKey, Keys, SessionId};
use prometheus::Registry;
use tokio::net::TcpStream;

/// What the ttl of a session is in these tests.
pub(crate) const SESSION_TTL: Duration = Duration::from_secs(600);

pub(crate) fn keys() -> Arc<Keys> {
    Arc::new(Keys::parse("a secret of the tests that is long enough").unwrap())
}

pub(crate) fn cart() -> FunctionKey {
    FunctionKey::new("demo", "cart")
}

pub(crate) fn session_of(function: &FunctionKey, number: u8) -> SessionId {
    keys().session_id(function, [number; 16])
}

/// A store over the Redis at `url` that has time, for tests that are not about time: a busy test machine may
/// stand still for longer than the usual budget. And what it counts.
pub(crate) fn patient_store(url: &str) -> (Store, Registry) {
    store_with(url, Duration::from_secs(5))
}

/// A store as installations have it.
pub(crate) fn store(url: &str) -> Store {
    store_with(url, DEFAULT_BUDGET).0
}

fn store_with(url: &str, budget: Duration) -> (Store, Registry) {
    let registry = Registry::new();
    (Store::open(url, budget, StoreMetrics::register(&registry).unwrap()).unwrap(), registry)
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn etag(&self) -> String {
        self.header("etag").to_owned()
    }

    /// The reason of a refusal. Checks that header, body and status agree.
    pub(crate) fn reason(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        let reason = problem["reason"].as_str().unwrap();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["type"], format!("urn:pilotlight:problem:{reason}"));
        assert!(
            !problem["title"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty()
        );
        assert_eq!(self.header("pilotlight-reason"), reason);
        reason.to_owned()
    }
}

/// A function that uses the state API for one of its sessions.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) session: String,
}

/// Serves the API over `store` and returns `cart` with a session of its own.
pub(crate) async fn serve(store: Option<Store>, limit: usize) -> Function {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let api = StateApi::new(store, keys(), Arc::new(|_| Some(SESSION_TTL))).with_limit(limit);
    tokio::spawn(async move { axum::serve(listener, router(api)).await });
    let session = session_of(&cart(), 1).as_str().to_owned();
    Function { address, token: keys().state_token(&cart()), session }
}

impl Function {
    pub(crate) async fn get(&self) -> Answer {
        self.send(Method::GET, "", &[], "").await
    }

    pub(crate) async fn put(&self, body: &str) -> Answer {
        self.send(Method::PUT, "", &[], body.to_owned()).await
    }

    pub(crate) async fn put_if(&self, header: (&str, &str), body: &str) -> Answer {
        self.send(Method::PUT, "", &[header], body.to_owned()).await
    }

    pub(crate) async fn delete(&self) -> Answer {
        self.send(Method::DELETE, "", &[], "").await
    }

    /// A request for the session. `suffix` ends the path.
    pub(crate) async fn send(
        &self,
        method: Method,
        suffix: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/session/{}{suffix}", self.session))
            .header("host", "state")
            .header(AUTHORIZATION, format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.exchange(request.body(Full::new(body.into())).unwrap()).await
    }

    pub(crate) async fn exchange<B>(&self, request: Request<B>) -> Answer
    where
        B: hyper::body::Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
    {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let began = Instant::now();
        let response = sender.send_request(request).await.unwrap();
        let took = began.elapsed();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body, took }
    }

    /// Writes until the API says that it is stored: on a busy machine Redis may be too slow for one of them.
    pub(crate) async fn stored(&self, value: &str, within: Duration) {
        let began = Instant::now();
        loop {
            let answer = self.put(value).await;
            if answer.status.is_success() {
                return;
            }
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(began.elapsed() < within, "still {answer:?} after {within:?}");
        }
    }

    /// Reads until the API answers something else than 503. Returns that, and how long it took.
    pub(crate) async fn recovered(&self, within: Duration) -> (Answer, Duration) {
        let began = Instant::now();
        loop {
            let answer = self.get().await;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                return (answer, began.elapsed());
            }
            assert!(began.elapsed() < within, "still {answer:?} after {within:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
