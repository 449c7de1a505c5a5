//! Requests that a pod did not take, or did not answer, and what becomes of them; and pods that are not who
//! they were.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use pilotlight_crds::{FunctionKey, FunctionSpec};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{
    Bed,
    bed::{Body, PATIENCE, Pod, after, full},
    raw::RawPod,
};

async fn bed() -> Bed {
    Bed::new(FunctionSpec::from_image("x")).await
}

/// A pod with an address that it shares with nobody.
async fn alone(name: &str, created: i64) -> Pod {
    let mut pod = Pod::serving(name, after(Duration::ZERO)).await;
    pod.observed.node_network = false;
    pod.observed.created = Timestamp::from_second(created).ok();
    pod
}

#[tokio::test]
async fn a_pod_whose_address_has_gone_to_a_newer_one_is_not_called_again() {
    let bed = bed().await;
    let (old, new) = (alone("old", 1).await, alone("new", 2).await);
    bed.see(&old);
    bed.until("the old pod answers", |report| report.ready == 1).await;
    assert_eq!((bed.get("/").await.status().as_u16(), old.asked()), (200, 1));
    bed.see(&new);
    assert_eq!(bed.report().ready, 0, "closed at once, with the connection that it has left");
    assert_eq!((bed.get("/").await.status().as_u16(), new.asked()), (200, 1));
    bed.see(&old);
    assert_eq!((bed.get("/").await.status().as_u16(), new.asked(), old.asked()), (200, 2, 1));
}

#[tokio::test]
async fn a_pod_that_is_seen_late_at_an_address_that_is_taken_is_never_called() {
    let bed = bed().await;
    let (old, mut new) = (alone("old", 1).await, alone("new", 2).await);
    new.observed.function = FunctionKey::new("demo", "other");
    let other = bed.add("other", FunctionSpec::from_image("x"));
    bed.see(&new);
    bed.see(&old);
    let third = Pod::serving("third", after(Duration::ZERO)).await;
    bed.see(&third);
    assert_eq!((bed.get("/").await.status().as_u16(), third.asked(), old.asked()), (200, 1, 0));
    assert_eq!(bed.report().ready, 1);
    let began = std::time::Instant::now();
    while other.report().ready == 0 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_pod_that_moves_is_called_where_it_is() {
    let bed = bed().await;
    let (mut pod, there) = (alone("a", 1).await, alone("there", 1).await);
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    pod.observed.address = Some([127, 0, 0, 2].into());
    pod.observed.port = there.observed.port;
    bed.see(&pod);
    assert_eq!(bed.report().ready, 0);
    let listener = TcpListener::bind(("127.0.0.2", there.observed.port.unwrap())).await.unwrap();
    let (response, ()) = tokio::join!(bed.get("/"), async {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(answer_one(stream));
    });
    assert_eq!((response.status().as_u16(), pod.asked(), there.asked()), (200, 0, 0));
}

async fn answer_one(stream: TcpStream) {
    let service = hyper::service::service_fn(|_: Request<Incoming>| async {
        Ok::<_, std::convert::Infallible>(Response::new(full("hello")))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = connection.await;
}

/// Fills the queue of connections that `port` has not accepted: what comes then is not even refused.
async fn fill(port: u16) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    let dial = || tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(("127.0.0.1", port)));
    while let Ok(stream) = dial().await {
        streams.push(stream.unwrap());
    }
    streams
}

#[tokio::test]
async fn a_pod_that_cannot_be_reached_for_a_while_is_asked_when_it_can() {
    let bed = bed().await;
    let mut pod = Pod::deaf("a").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let port = listener.local_addr().unwrap().port();
    pod.observed.port = Some(port);
    bed.see(&pod);
    // Two connections: that of the probe ends with its answer, so that the next request needs a new one.
    let (first, ()) =
        tokio::join!(bed.get("/"), async { answer_one(listener.accept().await.unwrap().0).await });
    assert_eq!(first.status(), 200);
    let fillers = fill(port).await;
    let (second, ()) = tokio::join!(bed.get("/"), async {
        bed.until("the pod is set aside", |report| report.ready == 0 && report.held == 1).await;
        drop(fillers);
        tokio::spawn(async move {
            loop {
                tokio::spawn(answer_one(listener.accept().await.unwrap().0));
            }
        });
    });
    assert_eq!(second.status(), 200);
}

fn request(method: Method, body: Body) -> Request<Body> {
    Request::builder().method(method).uri("/").header("host", "hello.demo.example.org").body(body).unwrap()
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let body: Bytes = request.into_body().collect().await.unwrap().to_bytes();
    Response::new(full(std::str::from_utf8(&body).unwrap()))
}

#[tokio::test]
async fn what_a_pod_broke_off_is_sent_again_if_it_may_be_and_can_be() {
    let (small, large) = ("x".repeat(16 * 1024), "x".repeat(16 * 1024 + 1));
    let rows = [
        (Method::GET, String::new(), 200),
        (Method::PUT, small.clone(), 200),
        (Method::DELETE, "why".to_owned(), 200),
        (Method::PUT, large, 502),
        (Method::POST, "pay".to_owned(), 502),
        (Method::POST, String::new(), 502),
        (Method::PATCH, String::new(), 502),
    ];
    for (method, body, expected) in rows {
        let bed = bed().await;
        let broken = RawPod::answering("a", "", true).await;
        bed.see(&broken.pod);
        bed.until("the pod answers", |report| report.ready == 1).await;
        bed.see(&Pod::serving("b", echo).await);
        bed.until("both answer", |report| report.ready == 2).await;
        let response = bed.ask(request(method.clone(), full(&body))).await;
        assert_eq!(response.status().as_u16(), expected, "{method} with {} bytes", body.len());
        assert_eq!(broken.log().requests.len(), 1, "{method}: the first pod was asked, and once only");
        if expected == 200 {
            assert_eq!(response.body().len(), body.len(), "{method}: whole");
        } else {
            assert_eq!(response.headers()["pilotlight-reason"], "pod-broke-off");
        }
    }
}
