//! What must not pass: ambiguous requests, forged headers, and connections of a process that leaves.

use std::time::Duration;

use http::Response;
use pilotlight_crds::FunctionSpec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Bed,
    bed::{PATIENCE, Pod, after, full},
};

/// Sends bytes and returns what comes back until the connection closes.
async fn raw(bed: &Bed, bytes: &str) -> String {
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("the connection is closed").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn ambiguous_requests_reach_no_pod() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", after(Duration::ZERO)).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    for head in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: hello.demo\r\nHost: hello.demo\r\n",
        "GET / HTTP/1.1\r\nHost: hello.demo/x\r\n",
        "POST / HTTP/1.1\r\nHost: hello.demo\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        "POST / HTTP/1.1\r\nHost: hello.demo\r\nTransfer-Encoding: gzip\r\n",
        "CONNECT hello.demo:80 HTTP/1.1\r\nHost: hello.demo\r\n",
        "GET / HTTP/1.1\r\nHost : hello.demo\r\n",
    ] {
        let answer = raw(&bed, &format!("{head}Connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{head:?}: {answer}");
    }
    assert_eq!(pod.asked(), 0);
}

#[tokio::test]
async fn a_pod_sees_where_a_request_comes_from_and_nothing_forged() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", |request: http::Request<hyper::body::Incoming>| async move {
        Response::new(full(&format!("{:?} {:?}", request.uri(), request.headers())))
    })
    .await;
    bed.see(&pod);
    let head = "GET /fn/demo/hello/a%2Fb?c=d HTTP/1.1\r\nHost: 1.2.3.4\r\nX-Forwarded-For: 9.9.9.9\r\n\
                Pilotlight-Session-Id: forged\r\nX-Real: kept\r\nConnection: close\r\n\r\n";
    let answer = raw(&bed, head).await;
    assert!(answer.contains("/a%2Fb?c=d "), "the prefix is gone, the rest untouched: {answer}");
    assert!(answer.contains(r#""x-forwarded-for": "127.0.0.1""#) && answer.contains("kept"), "{answer}");
    assert!(!answer.contains("forged") && !answer.contains("9.9.9.9"), "{answer}");
}

#[tokio::test]
async fn who_asks_for_nothing_that_is_there_is_told() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let answer = raw(&bed, "GET / HTTP/1.1\r\nHost: nowhere\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("no-such-function"), "{answer}");
}

#[tokio::test]
async fn a_process_that_leaves_closes_its_connections_in_order() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", after(Duration::from_millis(200))).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    let mut sender = bed.connect().await;
    let answer = sender.send_request(super::bed::get("/"));
    let leave = async {
        bed.until("one is in flight", |report| report.in_flight == 1).await;
        bed.process.set_leaving();
        bed.stop.cancel();
    };
    let (response, ()) = tokio::join!(answer, leave);
    let response = response.expect("what is in flight is answered");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["connection"]),
        (200, &"close".parse().unwrap())
    );
}
