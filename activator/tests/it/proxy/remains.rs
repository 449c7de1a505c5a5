//! What remains after gRPC calls, WebSocket connections and requests that prefer a pod were given up at any
//! moment, by either side or by a clock: nothing. `aborts.rs` does the same with plain requests, and more of them.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilotlight_activator::function::Wish;
use pilotlight_crds::{FunctionSpec, Protocol, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Bed,
    bed::{Body, PATIENCE, Pod, full},
    grpc,
    http2::connect,
    websocket::{
        self, HELLO_BACK,
        client::{AnySocket, handshake, http1, http2},
    },
};
use crate::random::Random;

const PODS: u32 = 3;
const CONCURRENCY: u32 = 4;
/// More clients than slots, so that some always wait.
const CLIENTS: u64 = 30;
/// What each of them does, for each protocol of the pods.
const EACH: usize = 40;

/// Serves calls and WebSocket connections, and does worse things by path.
async fn answer(mut request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/chat" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(stream) = upgrade.await {
                    websocket::echo(TokioIo::new(stream)).await;
                }
            });
            websocket::consent(&request)
        }
        "/never" => std::future::pending().await,
        // Ends the connection without an answer, and without a word from the panic hook.
        "/break" => std::panic::resume_unwind(Box::new(())),
        _ => grpc::echo(request).await,
    }
}

async fn pods(bed: &Bed, protocol: Protocol) -> Vec<Pod> {
    let mut pods = Vec::new();
    for number in 0..PODS {
        let name = number.to_string();
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.enable_connect_protocol();
        let pod = match protocol {
            Protocol::Http1 => Pod::serving(&name, answer).await,
            Protocol::H2c => Pod::serving_http2_with(&name, builder, answer).await,
        };
        bed.see(&pod);
        pods.push(pod);
    }
    bed.until("all pods answer", |report| report.ready == PODS).await;
    pods
}

/// A call to its end, if it comes to one.
async fn call(bed: &Bed, path: &str, timeout: Option<&str>) -> bool {
    let mut request = Request::post(format!("http://hello.demo{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let Ok(response) = connect(bed).await.send_request(request.body(full("message")).unwrap()).await else {
        return false;
    };
    response.into_body().collect().await.is_ok()
}

/// Sends `hello` and gets it back.
async fn chat(socket: Option<AnySocket>) -> bool {
    let Some(mut socket) = socket else { return false };
    let mut back = [0; HELLO_BACK.len()];
    socket.write_all(websocket::HELLO).await.is_ok() && socket.read_exact(&mut back).await.is_ok()
}

/// A slot in the pod that is preferred, or another, for a moment.
async fn prefer(bed: &Bed, pod: u64) -> bool {
    let uid = format!("uid-of-{}", pod % u64::from(PODS));
    let wish = Wish { pod: Some(&uid), ..Wish::default() };
    let acquired = bed.function.acquire(wish).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    acquired.is_ok()
}

/// Does one thing after the other, and leaves in the middle of some. How many came to their end.
async fn client(bed: &Bed, number: u64) -> usize {
    let mut random = Random(number);
    let ended = AtomicUsize::new(0);
    for _ in 0..EACH {
        let kind = random.uniform();
        let one = async {
            match kind {
                x if x < 0.3 => call(bed, "/echo", Some("5S")).await,
                x if x < 0.34 => call(bed, "/never", Some("50m")).await,
                x if x < 0.37 => call(bed, "/never", None).await,
                x if x < 0.4 => call(bed, "/break", None).await,
                x if x < 0.6 => chat(http1(bed.addr, handshake()).await.1).await,
                x if x < 0.8 => chat(http2(bed.addr, "websocket").await.1).await,
                _ => prefer(bed, number).await,
            }
        };
        let leaves = random.uniform() < 0.4;
        let patience = if leaves { Duration::from_millis(10).mul_f64(random.uniform()) } else { PATIENCE };
        match tokio::time::timeout(patience, one).await {
            Ok(whole) => _ = ended.fetch_add(usize::from(whole), Ordering::Relaxed),
            Err(_) => assert!(leaves, "{kind} was not answered: {:?}", bed.report()),
        }
    }
    ended.into_inner()
}

/// Every gauge is zero, sooner or later.
async fn until_all_is_zero(bed: &Bed) {
    bed.until("nothing is in flight or held", |report| report.in_flight + report.held == 0).await;
    let metrics = &bed.function.metrics;
    let gauges = || {
        let gauges =
            [&metrics.in_flight, &metrics.held, &metrics.overloaded, &bed.connections, &bed.open_tunnels];
        gauges.map(|gauge| gauge.get())
    };
    let began = Instant::now();
    while gauges().iter().any(|gauge| *gauge != 0) || bed.process.holding() != (0, 0) {
        assert!(began.elapsed() < PATIENCE, "{:?} {:?}", gauges(), bed.process.holding());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_calls_and_sockets_that_were_given_up_nothing_remains() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let timeouts = Timeouts { first_byte: "200ms".parse().unwrap(), ..Timeouts::default() };
        let spec =
            FunctionSpec { concurrency: CONCURRENCY, protocol, timeouts, ..FunctionSpec::from_image("x") };
        let bed = Bed::new(spec).await;
        let _pods = pods(&bed, protocol).await;
        let ended: usize = join_all((0..CLIENTS).map(|number| client(&bed, number))).await.into_iter().sum();
        let all = CLIENTS as usize * EACH;
        assert!(ended > all / 2, "{protocol:?}: most of those who stayed came to an end: {ended} of {all}");
        until_all_is_zero(&bed).await;

        // Pods that left a call unanswered were set aside, and are back; each has all its slots.
        bed.until("no pod is set aside", |report| (report.ready, report.set_aside) == (PODS, 0)).await;
        let acquire = || bed.function.acquire(Wish::default());
        let slots: Vec<_> = join_all((0..PODS * CONCURRENCY).map(|_| acquire())).await;
        assert!(slots.iter().all(|slot| slot.as_ref().is_ok_and(|slot| slot.held.is_none())), "{protocol:?}");
        let one_more = tokio::time::timeout(Duration::from_millis(10), acquire()).await;
        assert!(one_more.is_err(), "{protocol:?}: there are no more slots than there are");
        drop(slots);
        until_all_is_zero(&bed).await;
    }
}
