//! `Expect: 100-continue`, and early answers.

use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pilotlight_crds::FunctionSpec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    Bed,
    bed::{Body, PATIENCE, Pod, full},
};

const UPLOAD: &str =
    "POST / HTTP/1.1\r\nhost: hello.demo\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";

pub(super) async fn echo(request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Response::new(http_body_util::Full::new(body).boxed_unsync())
}

/// Reads until a text has come.
pub(super) async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let (mut read, mut buffer) = (String::new(), [0; 4096]);
    while !read.contains(text) {
        let more = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await;
        let more = more.unwrap_or_else(|_| panic!("only {read:?}")).unwrap();
        assert!(more > 0, "closed after {read:?}");
        read.push_str(std::str::from_utf8(&buffer[..more]).unwrap());
    }
    read
}

pub(super) async fn read_to_end(mut stream: TcpStream) -> String {
    let mut rest = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut rest)).await.expect("it is closed").unwrap();
    rest
}

/// A pod that answers every connection's first request with fixed text, whatever it is asked.
pub(super) async fn scripted_pod(bed: &Bed, text: &'static str) {
    let pod = Pod::deaf("a").await;
    let listener = TcpListener::bind(("127.0.0.1", pod.observed.port.unwrap())).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                // The probe connects and says nothing.
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    if buffer[..read].windows(4).any(|end| end == b"\r\n\r\n") {
                        let _ = stream.write_all(text.as_bytes()).await;
                    }
                }
            });
        }
    });
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
}

#[tokio::test]
async fn an_upload_from_zero_waits_without_its_body() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(UPLOAD.as_bytes()).await.unwrap();
    bed.until("it is held", |report| report.held == 1).await;
    let mut early = [0; 1];
    assert!(stream.try_read(&mut early).is_err(), "no 100 while it is held");
    bed.see(&Pod::serving("a", echo).await);
    read_until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    let answer = read_until(&mut stream, "hello").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_pod_that_refuses_never_gets_the_body_and_the_client_no_100() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let refuse =
        |_| async { Response::builder().status(413).header("why", "too-large").body(full("no")).unwrap() };
    bed.see(&Pod::serving("a", refuse).await);
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(UPLOAD.as_bytes()).await.unwrap();
    let answer = read_to_end(stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("why: too-large") && answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("no"), "{answer}");
    bed.until_idle().await;
}

#[tokio::test]
async fn a_pod_that_knows_nothing_of_expectations_gets_the_body_after_a_while() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::deaf("a").await;
    let listener = TcpListener::bind(("127.0.0.1", pod.observed.port.unwrap())).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
                while !read.ends_with(b"hello") {
                    match stream.read(&mut buffer).await {
                        Ok(more @ 1..) => read.extend_from_slice(&buffer[..more]),
                        _ => return,
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            });
        }
    });
    bed.see(&pod);
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(UPLOAD.as_bytes()).await.unwrap();
    read_until(&mut stream, "100 Continue\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    read_until(&mut stream, "HTTP/1.1 204").await;
}

#[tokio::test]
async fn an_upload_that_nobody_reads_delays_no_other_request() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    // A pod that answers at once and would wait for the rest of the body for ever.
    scripted_pod(&bed, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
    let mut upload = TcpStream::connect(bed.addr).await.unwrap();
    upload.write_all(b"POST / HTTP/1.1\r\nhost: hello.demo\r\ncontent-length: 1000\r\n\r\nx").await.unwrap();
    read_until(&mut upload, "early").await;
    bed.until_idle().await;
    // The rest of the upload never comes.
    let next = tokio::time::timeout(Duration::from_secs(5), bed.get("/")).await.expect("it is not behind it");
    assert_eq!((next.status().as_u16(), &next.body()[..]), (200, &b"early"[..]));
}

#[tokio::test]
async fn answers_that_have_no_body_have_none() {
    for (answer, method) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", "GET"),
        ("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 9\r\n\r\n", "GET"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", "HEAD"),
    ] {
        let bed = Bed::new(FunctionSpec::from_image("x")).await;
        scripted_pod(&bed, answer).await;
        let mut stream = TcpStream::connect(bed.addr).await.unwrap();
        // Twice on one connection: a body that was not there must not swallow the second answer.
        for _ in 0..2 {
            stream
                .write_all(format!("{method} / HTTP/1.1\r\nhost: hello.demo\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let told = read_until(&mut stream, "\r\n\r\n").await;
            assert!(told.starts_with(&answer[..12]) && told.ends_with("\r\n\r\n"), "{told}");
            // hyper leaves the length out of a 304, where RFC 9110 (section 15.4.5) would let it stand.
            assert_eq!(told.contains("content-length: 9"), method == "HEAD", "{told}");
        }
    }
}
