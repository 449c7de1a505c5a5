//! Bodies: streamed both ways, cut short as a reset, and counted until their end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use pilotlight_crds::{FunctionSpec, Span, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Bed,
    bed::{Body, Pod, full},
};

fn timeouts(first_byte: &str, idle: &str, total: &str) -> FunctionSpec {
    let span = |text: &str| text.parse::<Span>().unwrap();
    let timeouts = Timeouts { first_byte: span(first_byte), idle: span(idle), total: span(total) };
    FunctionSpec { timeouts, ..FunctionSpec::from_image("x") }
}

async fn serving<A>(spec: FunctionSpec, answer: fn(Request<Incoming>) -> A) -> (Bed, Pod)
where
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let bed = Bed::new(spec).await;
    let pod = Pod::serving("a", answer).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    (bed, pod)
}

/// A piece of text, then another one every `every`.
fn trickle(pieces: u32, every: Duration) -> Body {
    let pieces = stream::iter(0..pieces).then(move |n| async move {
        if n > 0 {
            tokio::time::sleep(every).await;
        }
        Ok(Frame::data(Bytes::from_static(b"piece")))
    });
    BodyExt::boxed_unsync(StreamBody::new(pieces.boxed()))
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Response::new(http_body_util::Full::new(body).boxed_unsync())
}

#[tokio::test]
async fn a_large_body_goes_both_ways() {
    let (bed, _pod) = serving(FunctionSpec::from_image("x"), echo).await;
    let sent = "0123456789abcdef".repeat(256 * 1024);
    let request = Request::post("/").header("host", "hello.demo").body(full(&sent)).unwrap();
    let response = bed.connect().await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let received = response.into_body().collect().await.unwrap().to_bytes();
    assert!(received == sent.as_bytes(), "{} of {} bytes came back", received.len(), sent.len());
    bed.until_idle().await;
}

#[tokio::test]
async fn a_request_counts_until_its_body_has_ended() {
    let (bed, _pod) = serving(FunctionSpec::from_image("x"), |_| async {
        Response::new(trickle(4, Duration::from_millis(100)))
    })
    .await;
    let mut response = bed.connect().await.send_request(super::bed::get("/")).await.unwrap();
    assert!(response.body_mut().frame().await.unwrap().is_ok());
    assert_eq!(bed.report().in_flight, 1, "the head alone is no end");
    while let Some(frame) = response.body_mut().frame().await {
        frame.unwrap();
    }
    bed.until_idle().await;
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_slot_back() {
    let (bed, _pod) = serving(FunctionSpec::from_image("x"), |_| async {
        Response::new(trickle(1_000, Duration::from_millis(20)))
    })
    .await;
    let mut response = bed.connect().await.send_request(super::bed::get("/")).await.unwrap();
    assert!(response.body_mut().frame().await.unwrap().is_ok());
    drop(response);
    bed.until_idle().await;
}

#[tokio::test]
async fn a_silent_response_is_cut_and_looks_cut() {
    let (bed, _pod) = serving(timeouts("5s", "200ms", "20s"), |_| async {
        Response::new(trickle(2, Duration::from_secs(60)))
    })
    .await;
    let response = bed.connect().await.send_request(super::bed::get("/")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_err(), "never a complete-looking body");
    bed.until_idle().await;
}

#[tokio::test]
async fn the_total_time_is_a_bound() {
    let (bed, _pod) = serving(timeouts("100ms", "5s", "400ms"), |_| async {
        Response::new(trickle(1_000, Duration::from_millis(20)))
    })
    .await;
    let response = bed.connect().await.send_request(super::bed::get("/")).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    bed.until_idle().await;
}

#[tokio::test]
async fn no_first_byte_is_answered_with_504() {
    let (bed, _pod) = serving(timeouts("200ms", "5s", "5s"), |_| std::future::pending()).await;
    let response = bed.get("/").await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["pilotlight-reason"]),
        (504, &"first-byte-timeout".parse().unwrap())
    );
    let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(problem["reached_pod"], true);
    bed.until_idle().await;
}

#[tokio::test]
async fn an_upgraded_connection_passes_bytes_and_occupies_a_slot() {
    let (bed, _pod) = serving(FunctionSpec::from_image("x"), |mut request| async move {
        assert_eq!(request.headers()["upgrade"], "shout");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 64];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                buffer[..read].make_ascii_uppercase();
                stream.write_all(&buffer[..read]).await.unwrap();
            }
        });
        let switch =
            Response::builder().status(101).header("connection", "upgrade").header("upgrade", "shout");
        switch.body(full("")).unwrap()
    })
    .await;
    let request = Request::get("/")
        .header("host", "hello.demo")
        .header("connection", "Upgrade")
        .header("upgrade", "shout")
        .body(full(""))
        .unwrap();
    let response = bed.connect().await.send_request(request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["upgrade"]),
        (101, &"shout".parse().unwrap())
    );
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!((&answer, bed.report().in_flight), (b"HELLO", 1));
    drop(stream);
    bed.until_idle().await;
}

#[tokio::test]
async fn whatever_clients_do_every_count_returns_to_zero() {
    let (bed, _pod) = serving(FunctionSpec { concurrency: 5, ..FunctionSpec::from_image("x") }, |_| async {
        Response::new(trickle(5, Duration::from_millis(2)))
    })
    .await;
    let completed = Arc::new(AtomicU64::new(0));
    let clients = (0..300_u64).map(|n| {
        let (completed, bed) = (Arc::clone(&completed), &bed);
        async move {
            let mut sender = bed.connect().await;
            let whole = async {
                let response = sender.send_request(super::bed::get("/")).await.ok()?;
                response.into_body().collect().await.ok()
            };
            // A third of the clients leave at moments spread over a request's whole life.
            let patience = if n % 3 == 0 { Duration::from_micros(n * 150) } else { super::bed::PATIENCE };
            if let Ok(Some(_)) = tokio::time::timeout(patience, whole).await {
                completed.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    stream::iter(clients).for_each_concurrent(50, |client| client).await;
    assert!(completed.load(Ordering::Relaxed) >= 200, "those who stayed were answered");
    bed.until("all counts are zero", |report| report.in_flight + report.held == 0).await;
}
