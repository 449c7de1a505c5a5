//! The hello function: what it answers, and how it starts and ends.
//!
//! `GET /` is the function. The other paths are for trying Pilotlight out: `/sleep?ms=N`, `/whoami`,
//! `/echo`, `/allocate?mib=N&ms=M`, `/status/{code}`. Reading order: [`router`], [`serve`], then `count` for how requests are
//! counted.

mod count;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    middleware,
    response::{IntoResponse, Response},
    routing::any,
    serve::ListenerExt,
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::count::Counter;

/// The header in which Pilotlight passes the id of the caller's session.
const SESSION_HEADER: &str = "pilotlight-session-id";

/// The longest that `/sleep` sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

/// The most that `/allocate` allocates, in MiB.
const LARGEST_ALLOCATION_MIB: usize = 4096;

/// What every request can see.
#[derive(Clone, Debug)]
struct Pod {
    hostname: String,
    counter: Counter,
}

/// The function.
pub fn router() -> Router {
    let pod = Pod { hostname: hostname(), counter: Counter::default() };
    Router::new()
        .route("/", any(hello))
        .route("/whoami", any(whoami))
        .route("/sleep", any(sleep_for))
        .route("/echo", any(echo))
        .route("/allocate", any(allocate))
        .route("/status/{code}", any(status))
        .layer(middleware::from_fn_with_state(pod.counter.clone(), count::in_flight))
        .with_state(pod)
}

async fn hello(State(pod): State<Pod>) -> String {
    format!("Hello from {}\n", pod.hostname)
}

async fn whoami(State(pod): State<Pod>, headers: HeaderMap) -> Json<serde_json::Value> {
    let mut names: Vec<&str> = headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let counts = pod.counter.counts();
    Json(json!({
        "hostname": pod.hostname,
        "inFlight": counts.in_flight,
        "maxInFlight": counts.max_in_flight,
        "requests": counts.requests,
        "session": headers.get(SESSION_HEADER).map(|id| String::from_utf8_lossy(id.as_bytes())),
        "headers": names,
    }))
}

#[derive(Deserialize)]
struct Sleep {
    ms: u64,
}

async fn sleep_for(State(pod): State<Pod>, Query(Sleep { ms }): Query<Sleep>) -> Response {
    let span = Duration::from_millis(ms);
    if span > LONGEST_SLEEP {
        let most = LONGEST_SLEEP.as_millis();
        return (StatusCode::BAD_REQUEST, format!("ms must be at most {most}\n")).into_response();
    }
    sleep(span).await;
    format!("{} slept {ms} ms\n", pod.hostname).into_response()
}

#[derive(Deserialize)]
struct Allocate {
    mib: usize,
    ms: u64,
}

/// Occupies memory for a while.
async fn allocate(Query(Allocate { mib, ms }): Query<Allocate>) -> Response {
    if mib > LARGEST_ALLOCATION_MIB || Duration::from_millis(ms) > LONGEST_SLEEP {
        let most = LONGEST_SLEEP.as_millis();
        let text = format!("mib must be at most {LARGEST_ALLOCATION_MIB}, ms at most {most}\n");
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    // Not zeros: those the kernel would only promise.
    let memory = vec![1_u8; mib << 20];
    sleep(Duration::from_millis(ms)).await;
    format!("{} MiB for {ms} ms\n", std::hint::black_box(memory).len() >> 20).into_response()
}

/// Sends the body back as it comes, without waiting for its end.
async fn echo(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body);
    if let Some(content_type) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
    }
    response
}

async fn status(Path(code): Path<u16>) -> Response {
    let Some(status) =
        StatusCode::from_u16(code).ok().filter(|status| (200..=599).contains(&status.as_u16()))
    else {
        return (StatusCode::BAD_REQUEST, "code must be between 200 and 599\n").into_response();
    };
    // These two have no body by definition.
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return (status, Body::empty()).into_response();
    }
    (status, format!("{status}\n")).into_response()
}

/// Serves `router` on the port that `PORT` names, until SIGTERM; then finishes what is in flight.
///
/// # Errors
/// If `PORT` is not a port, or is taken.
pub async fn serve(router: Router) -> io::Result<()> {
    let terminated = terminated()?;
    // Nothing is gained by waiting for a fuller packet: what a function writes is meant to be read now.
    let listener = listen(port()?).await?.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, router)
        // By now nobody sends new requests: Pilotlight tells a pod to end only after it has stopped to use it.
        .with_graceful_shutdown(terminated)
        .await
}

/// Resolves at SIGTERM. From the first call on, the process has to end by itself: SIGTERM no longer
/// ends it.
///
/// # Errors
/// If the kernel refuses the signal handler.
pub fn terminated() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        terminate.recv().await;
    })
}

/// Takes IPv4 and IPv6; on nodes without IPv6, IPv4 alone.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    }
}

fn port() -> io::Result<u16> {
    match std::env::var("PORT") {
        Ok(port) => port
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("PORT is not a port: {port}"))),
        Err(_) => Ok(8080),
    }
}

/// In a container this is the pod's name. Read from the kernel: not every runtime sets `HOSTNAME`.
fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests;
