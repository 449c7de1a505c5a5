//! Clients that end their side of the connection behind their request, and wait for the answer.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use pilotlight_crds::FunctionSpec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Bed,
    bed::{Body, PATIENCE, Pod, after, full},
};

const GET: &str = "GET / HTTP/1.1\r\nhost: hello.demo\r\n\r\n";

/// Sends all there is to send, and ends that side.
async fn send(bed: &Bed, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    stream
}

/// What comes until we end the connection, too.
async fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.expect("the connection ends with the answer").unwrap();
    answer
}

#[tokio::test]
async fn a_slow_answer_is_waited_for() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    bed.see(&Pod::serving("a", after(Duration::from_millis(200))).await);
    let answer = answer(send(&bed, GET).await).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
    bed.until_idle().await;
}

#[tokio::test]
async fn so_is_one_from_zero() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let stream = send(&bed, GET).await;
    bed.until("it is held", |report| report.held == 1).await;
    bed.see(&Pod::serving("a", after(Duration::ZERO)).await);
    let answer = answer(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn the_last_of_several_requests_is_answered_too() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    bed.see(&Pod::serving("a", after(Duration::from_millis(30))).await);
    let answer = answer(send(&bed, &GET.repeat(3)).await).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
}

#[tokio::test]
async fn a_long_answer_comes_whole_to_a_client_that_reads_late() {
    const LONG: usize = 16 * 1024 * 1024;
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let long = |_: Request<Incoming>| async {
        // The end of the client's side is seen first: making so much takes this thread for a while.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let body: Body = Full::new(Bytes::from(vec![b'x'; LONG])).boxed_unsync();
        Response::new(body)
    };
    bed.see(&Pod::serving("a", long).await);
    let stream = send(&bed, GET).await;
    bed.until("it is answered", |report| report.in_flight == 1).await;
    let answer = answer(stream).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.len(), LONG);
}

#[tokio::test]
async fn half_a_request_is_none() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", |request: Request<Incoming>| async {
        let whole = request.into_body().collect().await.is_ok();
        Response::new(full(if whole { "whole" } else { "cut" }))
    })
    .await;
    bed.see(&pod);
    let upload = "POST / HTTP/1.1\r\nhost: hello.demo\r\ncontent-length: 10\r\n\r\nhalf";
    let answer = answer(send(&bed, upload).await).await;
    assert!(!answer.contains("whole"), "{answer}");
    bed.until_idle().await;
}
