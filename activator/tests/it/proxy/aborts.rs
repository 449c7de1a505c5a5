//! Clients that leave at any moment, pods that break off or never answer: afterwards every count is zero, and
//! every slot can be had.
//!
//! `PILOTLIGHT_ABORTS` sets the number of requests; `cargo xtask bench aborts` runs a million.

use std::{
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilotlight_crds::{FunctionSpec, Timeouts};
use tokio::{net::TcpStream, sync::Semaphore};

use super::{
    Bed,
    bed::{Body, PATIENCE, Pod, full},
};
use crate::random::Random;

/// Requests unless `PILOTLIGHT_ABORTS` says otherwise.
const REQUESTS: usize = 20_000;
const PODS: usize = 4;
const CONCURRENCY: u32 = 4;
/// More clients than slots, so that some always wait.
const CLIENTS: usize = 48;
/// Share of the requests that are given up by their clients.
const ABORTED: f64 = 0.3;
/// Clients that ask for something that must not end meanwhile.
static GATE: Semaphore = Semaphore::const_new(0);

/// What a pod does, by path.
async fn answer(request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/late" => tokio::time::sleep(Duration::from_millis(2)).await,
        "/never" => std::future::pending().await,
        "/gate" => GATE.acquire().await.unwrap().forget(),
        // Ends the connection without an answer, and without a word from the panic hook.
        "/break" => std::panic::resume_unwind(Box::new(())),
        "/long" => return Response::new(pieces()),
        _ => {}
    }
    Response::new(full("hello"))
}

/// A body that takes a few milliseconds.
fn pieces() -> Body {
    let pieces = stream::iter(0..4).then(|_| async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(Frame::data(Bytes::from_static(b"piece")))
    });
    StreamBody::new(pieces).boxed_unsync()
}

enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    async fn connect(bed: &Bed, http2: bool) -> Self {
        let stream = TokioIo::new(TcpStream::connect(bed.addr).await.unwrap());
        if http2 {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    /// Whether the connection can be used again after a request that was given up.
    fn survives(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// The status, if there was a whole answer.
    async fn ask(&mut self, path: &str) -> Option<u16> {
        let uri = format!("http://hello.demo.example.org{path}");
        let request = Request::get(uri).header("host", "hello.demo.example.org").body(Empty::new()).unwrap();
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.ok()?;
                sender.send_request(request).await.ok()?
            }
            Self::Http2(sender) => {
                sender.ready().await.ok()?;
                sender.send_request(request).await.ok()?
            }
        };
        let status = response.status().as_u16();
        response.into_body().collect().await.ok().map(|_| status)
    }
}

/// Asks for one thing after the other until all have been asked, and leaves in the middle of some.
async fn client(bed: &Bed, number: usize, left: &AtomicUsize, answered: &AtomicU32) {
    let mut random = Random(number as u64);
    let mut client = Client::connect(bed, number.is_multiple_of(2)).await;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let path = match random.uniform() {
            x if x < 0.4 => "/",
            x if x < 0.7 => "/late",
            x if x < 0.98 => "/long",
            x if x < 0.99 => "/break",
            _ => "/never",
        };
        let aborts = random.uniform() < ABORTED;
        // Up to 8 ms: while it is held, before the head, within the body, or just after.
        let patience = if aborts { Duration::from_millis(8).mul_f64(random.uniform()) } else { PATIENCE };
        let whole = tokio::time::timeout(patience, client.ask(path)).await;
        match whole {
            Ok(Some(200)) => _ = answered.fetch_add(1, Ordering::Relaxed),
            Ok(Some(status)) => assert!(matches!(status, 502 | 504), "{path}: {status}"),
            Ok(None) => client = Client::connect(bed, number.is_multiple_of(2)).await,
            Err(_) => {
                assert!(aborts, "{path} was not answered");
                // Some clients of HTTP/2 leave with everything they have.
                if !client.survives() || random.uniform() < 0.1 {
                    client = Client::connect(bed, number.is_multiple_of(2)).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_mix_of_aborts_every_count_is_zero_and_every_slot_is_there() {
    let requests = std::env::var("PILOTLIGHT_ABORTS").map_or(REQUESTS, |requests| requests.parse().unwrap());
    let timeouts = Timeouts { first_byte: "200ms".parse().unwrap(), ..Timeouts::default() };
    let spec = FunctionSpec { concurrency: CONCURRENCY, timeouts, ..FunctionSpec::from_image("x") };
    let bed = Bed::new(spec).await;
    let mut pods = Vec::new();
    for number in 0..PODS {
        pods.push(Pod::serving(&number.to_string(), answer).await);
    }
    pods.iter().for_each(|pod| bed.see(pod));
    bed.until("all pods answer", |report| report.ready == PODS as u32).await;

    let (left, answered) = (AtomicUsize::new(requests), AtomicU32::new(0));
    join_all((0..CLIENTS).map(|number| client(&bed, number, &left, &answered))).await;
    let answered = answered.load(Ordering::Relaxed) as usize;
    assert!(answered > requests * 6 / 10, "most of those who stayed were answered: {answered} of {requests}");

    bed.until("nothing is in flight or held", |report| report.in_flight + report.held == 0).await;
    let metrics = &bed.function.metrics;
    let zero = || {
        let gauges = [&metrics.in_flight, &metrics.held, &metrics.overloaded, &bed.connections];
        gauges.iter().all(|gauge| gauge.get() == 0) && bed.process.holding() == (0, 0)
    };
    let began = Instant::now();
    while !zero() {
        assert!(began.elapsed() < PATIENCE, "{:?} {:?}", bed.connections.get(), bed.process.holding());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    // Pods that broke off were set aside, and are back; each has all its slots.
    bed.until("all pods answer again", |report| report.ready == PODS as u32).await;
    let all = PODS as u32 * CONCURRENCY;
    let gates = join_all((0..all).map(|_| bed.get("/gate")));
    let open = async {
        bed.until("every slot is taken", |report| (report.in_flight, report.held) == (all, 0)).await;
        GATE.add_permits(all as usize);
    };
    let (responses, ()) = tokio::join!(gates, open);
    assert!(responses.iter().all(|response| response.status() == 200));
}
