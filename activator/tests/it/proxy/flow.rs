//! Back-pressure from end to end: who is slow slows the other side down, and little is in memory between
//! them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use pilotlight_crds::{FunctionSpec, Protocol};
use tokio::sync::Notify;

use super::{
    Bed,
    bed::{Body, PATIENCE, Pod, full, get},
    http2::connect,
};

const PIECE: usize = 64 * 1024;
const PIECES: u64 = 3_200;
const WHOLE: u64 = PIECES * PIECE as u64;
/// What may be under way: mostly the kernel's socket buffers, which grow to some MiB each.
const UNDER_WAY: u64 = 32 * 1024 * 1024;
/// So long without another byte is standing still.
const STILL: Duration = Duration::from_millis(300);

/// 200 MB, counted as they are taken.
fn large(taken: Arc<AtomicU64>) -> Body {
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let pieces = stream::iter((0..PIECES).map(move |_| {
        taken.fetch_add(PIECE as u64, Ordering::Relaxed);
        Ok(Frame::data(piece.clone()))
    }));
    BodyExt::boxed_unsync(StreamBody::new(pieces))
}

/// Waits until a count stands still, and says where.
async fn standstill(count: &AtomicU64) -> u64 {
    let began = Instant::now();
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = count.load(Ordering::Relaxed);
        if now != last || now == 0 {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() >= STILL {
            return now;
        }
        assert!(began.elapsed() < PATIENCE, "it goes on: {now} bytes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn spec(protocol: Protocol) -> FunctionSpec {
    FunctionSpec { protocol, ..FunctionSpec::from_image("x") }
}

async fn count(mut body: hyper::body::Incoming) -> u64 {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().into_data().unwrap().len() as u64;
    }
    bytes
}

async fn a_client_that_does_not_read(protocol: Protocol) {
    let bed = Bed::new(spec(protocol)).await;
    let taken = Arc::new(AtomicU64::new(0));
    let produced = Arc::clone(&taken);
    let answer = move |_| {
        let body = large(Arc::clone(&produced));
        async move { Response::new(body) }
    };
    let request = Request::get("http://hello.demo/").header("host", "hello.demo").body(full("")).unwrap();
    let response = match protocol {
        Protocol::Http1 => {
            bed.see(&Pod::serving("a", answer).await);
            bed.connect().await.send_request(request).await.unwrap()
        }
        Protocol::H2c => {
            bed.see(&Pod::serving_http2("a", answer).await);
            connect(&bed).await.send_request(request).await.unwrap()
        }
    };
    let under_way = standstill(&taken).await;
    assert!(under_way < UNDER_WAY, "{under_way} bytes of {WHOLE} were taken from the pod");
    assert_eq!(count(response.into_body()).await, WHOLE);
    bed.until_idle().await;
}

async fn a_pod_that_does_not_read(protocol: Protocol) {
    let bed = Bed::new(spec(protocol)).await;
    let begin = Arc::new(Notify::new());
    let told = Arc::clone(&begin);
    let answer = move |request: Request<hyper::body::Incoming>| {
        let told = Arc::clone(&told);
        async move {
            told.notified().await;
            Response::new(full(&count(request.into_body()).await.to_string()))
        }
    };
    let taken = Arc::new(AtomicU64::new(0));
    let body = large(Arc::clone(&taken));
    let request = Request::post("http://hello.demo/").header("host", "hello.demo").body(body).unwrap();
    let response = match protocol {
        Protocol::Http1 => {
            bed.see(&Pod::serving("a", answer).await);
            let mut sender = bed.connect().await;
            tokio::spawn(async move { sender.send_request(request).await })
        }
        Protocol::H2c => {
            bed.see(&Pod::serving_http2("a", answer).await);
            let mut sender = connect(&bed).await;
            tokio::spawn(async move { sender.send_request(request).await })
        }
    };
    let under_way = standstill(&taken).await;
    assert!(under_way < UNDER_WAY, "{under_way} bytes of {WHOLE} were taken from the client");
    begin.notify_one();
    let counted = response.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(counted, WHOLE.to_string());
}

#[tokio::test]
async fn a_slow_client_slows_its_pod_down() {
    a_client_that_does_not_read(Protocol::Http1).await;
}

#[tokio::test]
async fn a_slow_client_slows_its_pod_down_over_http2() {
    a_client_that_does_not_read(Protocol::H2c).await;
}

#[tokio::test]
async fn a_slow_pod_slows_its_client_down() {
    a_pod_that_does_not_read(Protocol::Http1).await;
}

#[tokio::test]
async fn a_slow_pod_slows_its_client_down_over_http2() {
    a_pod_that_does_not_read(Protocol::H2c).await;
}

#[tokio::test]
async fn clients_that_do_not_read_keep_a_pod_over_http2_from_nobody() {
    const IDLERS: usize = 50;
    let bed = Bed::new(spec(Protocol::H2c)).await;
    let answer = |request: Request<hyper::body::Incoming>| async move {
        Response::new(if request.uri().path() == "/" { large(Arc::default()) } else { full("hello") })
    };
    bed.see(&Pod::serving_http2("a", answer).await);
    let mut idlers = Vec::new();
    for _ in 0..IDLERS {
        idlers.push(bed.connect().await.send_request(get("/")).await.unwrap());
    }
    bed.until("all of them wait", |report| report.in_flight == IDLERS as u32).await;
    assert_eq!(bed.get("/small").await.body(), "hello");
}
