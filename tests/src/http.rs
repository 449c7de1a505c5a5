//! An HTTP/1.1 client that is open about its connections: which are kept, which are new, what was sent.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// No request of a test waits longer than this, unless it says so.
const DEADLINE: Duration = Duration::from_secs(60);
/// A connection inside a cluster is made at once or not at all; a lost SYN is sent again after 1 and 3 s.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// What becomes of a connection after its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// It is kept for the next request, as browsers and HTTP libraries do.
    Kept,
    /// Each request has its own.
    New,
}

/// Calls one host.
#[derive(Clone, Debug)]
pub struct Caller {
    /// `host:port` to connect to.
    address: Arc<str>,
    /// The `Host` header, which is what routes.
    host: HeaderValue,
    connections: Connections,
    deadline: Duration,
    idle: Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// When what happened.
    pub timing: Timing,
}

/// When what happened, counted from the beginning of the call.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The connection was there.
    pub connected: Duration,
    /// The head of the response was there.
    pub head: Duration,
    /// The whole body was there.
    pub end: Duration,
}

/// Why there is no whole response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// No connection.
    Dial(String),
    /// The request was sent, at least in part, and the connection broke before the response.
    Broken(String),
    /// The response broke off in its body.
    Body(String),
    /// It took too long.
    Deadline,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dial(why) => write!(f, "no connection: {why}"),
            Self::Broken(why) => write!(f, "broken before the response: {why}"),
            Self::Body(why) => write!(f, "broken in the body: {why}"),
            Self::Deadline => write!(f, "no answer in time"),
        }
    }
}

impl std::error::Error for CallError {}

/// A request without a body.
///
/// # Panics
/// If `path` is not one: a mistake in the test.
pub fn get(path: &str) -> Request<Full<Bytes>> {
    request(Method::GET, path, Bytes::new())
}

/// A request with a body.
///
/// # Panics
/// If `path` is not one: a mistake in the test.
#[expect(clippy::expect_used, reason = "a mistake in the test itself")]
pub fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path);
    request.body(Full::new(body.into())).expect("a path")
}

impl Caller {
    /// Calls `host` at `address`, keeping connections.
    ///
    /// # Errors
    /// When `host` cannot be a header.
    pub fn new(address: &str, host: &str) -> Result<Self> {
        Ok(Self {
            address: address.into(),
            host: HeaderValue::from_str(host).context("the host")?,
            connections: Connections::Kept,
            deadline: DEADLINE,
            idle: Arc::default(),
        })
    }

    /// The same, with a connection for each request.
    pub fn with_new_connections(&self) -> Self {
        Self { connections: Connections::New, idle: Arc::default(), ..self.clone() }
    }

    /// The same host, at another address: one activator of several.
    pub fn at(&self, address: &str) -> Self {
        Self { address: address.into(), idle: Arc::default(), ..self.clone() }
    }

    /// The same, with another deadline.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// GET of a path.
    ///
    /// # Errors
    /// When there is no whole response.
    pub async fn get(&self, path: &str) -> Result<Reply, CallError> {
        self.send(get(path)).await
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Errors
    /// When there is no whole response.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Reply, CallError> {
        let call = self.exchange(request);
        tokio::time::timeout(self.deadline, call).await.unwrap_or(Err(CallError::Deadline))
    }

    async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<Reply, CallError> {
        let began = Instant::now();
        request.headers_mut().insert(header::HOST, self.host.clone());
        // A kept connection may have been closed meanwhile. As long as nothing was sent on it, a client
        // may take the next one without knowing anything of the request.
        while let Some(mut connection) = self.take() {
            let connected = began.elapsed();
            match connection.try_send_request(request).await {
                Ok(response) => return self.read(response, connection, began, connected).await,
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(CallError::Broken(explain(&failed.into_error()))),
                },
            }
        }
        let mut connection = self.dial().await?;
        let connected = began.elapsed();
        let response = connection.send_request(request).await;
        let response = response.map_err(|error| CallError::Broken(explain(&error)))?;
        self.read(response, connection, began, connected).await
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|connection| !connection.is_closed())
    }

    async fn dial(&self) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let dial = |error: &dyn std::error::Error| CallError::Dial(explain(error));
        let stream = tokio::time::timeout(DIAL_DEADLINE, TcpStream::connect(&*self.address)).await;
        let stream = stream.map_err(|late| dial(&late))?.map_err(|error| dial(&error))?;
        // Small requests must not wait for a full packet; a socket that refuses is about to fail anyway.
        let _ = stream.set_nodelay(true);
        let made = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| dial(&error))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn read(
        &self,
        response: http::Response<hyper::body::Incoming>,
        connection: SendRequest<Full<Bytes>>,
        began: Instant,
        connected: Duration,
    ) -> Result<Reply, CallError> {
        let head = began.elapsed();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| CallError::Body(explain(&error)))?.to_bytes();
        let timing = Timing { connected, head, end: began.elapsed() };
        if self.connections == Connections::Kept {
            self.keep(connection);
        }
        Ok(Reply { status: parts.status, headers: parts.headers, body, timing })
    }

    /// Keeps a connection if it can be used again; after `Connection: close` it cannot.
    fn keep(&self, mut connection: SendRequest<Full<Bytes>>) {
        let idle = Arc::clone(&self.idle);
        tokio::spawn(async move {
            if connection.ready().await.is_ok() {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
        });
    }
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.describe()))
    }

    /// A header as text; empty if there is none.
    pub fn header(&self, name: impl AsRef<str>) -> &str {
        let name: Option<HeaderName> = name.as_ref().parse().ok();
        name.and_then(|name| self.headers.get(name)).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The reason that an answer of Pilotlight's own carries; empty on a function's.
    pub fn reason(&self) -> &str {
        self.header("pilotlight-reason")
    }

    /// The `name=value` of the cookie that the response sets.
    pub fn cookie(&self) -> Option<String> {
        let set = self.headers.get(header::SET_COOKIE)?.to_str().ok()?;
        set.split(';').next().map(str::to_owned)
    }

    /// Status and body on one line, for messages.
    pub fn describe(&self) -> String {
        format!("{} {} after {:?}", self.status.as_u16(), self.text().trim_end(), self.timing.end)
    }
}

/// An error with all its causes.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
