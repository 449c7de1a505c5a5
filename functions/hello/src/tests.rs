//! The paths of the hello function, and its count of requests in flight.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Serves the function on a port of its own; returns its address.
async fn start() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(axum::serve(listener, router()).into_future());
    address
}

/// Sends a request head and body; returns status and body.
async fn call(address: &str, head: &str, body: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request =
        format!("{head}\r\nhost: hello\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn whoami(address: &str) -> Value {
    let (_, body) = call(address, "GET /whoami HTTP/1.1\r\nPilotlight-Session-Id: s1", "").await;
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn the_root_says_hello_and_nothing_of_the_request() {
    let address = start().await;
    let answer = call(&address, "POST / HTTP/1.1", "secret").await;
    assert_eq!(answer, (200, format!("Hello from {}\n", hostname())));
}

#[tokio::test]
async fn whoami_tells_the_session_and_the_names_of_headers() {
    let seen = whoami(&start().await).await;
    assert_eq!(seen["session"], "s1");
    assert_eq!(
        seen["headers"],
        serde_json::json!(["connection", "content-length", "host", "pilotlight-session-id"])
    );
    assert_eq!((&seen["inFlight"], &seen["requests"]), (&1.into(), &1.into()));
}

#[tokio::test]
async fn concurrent_requests_are_counted_and_uncounted() {
    let address = start().await;
    let sleepers: Vec<_> = (0..7)
        .map(|_| {
            let address = address.clone();
            tokio::spawn(async move { call(&address, "GET /sleep?ms=300 HTTP/1.1", "").await.0 })
        })
        .collect();
    for sleeper in sleepers {
        assert_eq!(sleeper.await.unwrap(), 200);
    }
    let seen = whoami(&address).await;
    assert_eq!(seen["maxInFlight"], 7);
    assert_eq!((&seen["inFlight"], &seen["requests"]), (&1.into(), &8.into()));
}

#[tokio::test]
async fn one_caller_never_finds_himself_counted_twice() {
    let address = start().await;
    for _ in 0..200 {
        call(&address, "POST /echo HTTP/1.1", "some body").await;
    }
    assert_eq!(whoami(&address).await["maxInFlight"], 1);
}

#[tokio::test]
async fn echo_streams_the_body_back_before_its_end() {
    let mut stream = tokio::net::TcpStream::connect(start().await).await.unwrap();
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\n\r\nabc").await.unwrap();
    let mut seen = String::new();
    while !seen.contains("abc") {
        let mut chunk = [0; 512];
        let count = stream.read(&mut chunk).await.unwrap();
        assert!(count > 0, "closed after {seen:?}");
        seen.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
    }
}

#[tokio::test]
async fn status_answers_with_the_code_asked_for() {
    let address = start().await;
    for (code, expected) in [("204", 204), ("404", 404), ("599", 599), ("101", 400), ("600", 400), ("x", 400)]
    {
        let (status, _) = call(&address, &format!("GET /status/{code} HTTP/1.1"), "").await;
        assert_eq!(status, expected, "{code}");
    }
}

#[tokio::test]
async fn memory_is_allocated_within_bounds() {
    let address = start().await;
    let small = call(&address, "POST /allocate?mib=2&ms=1 HTTP/1.1", "").await;
    assert_eq!(small, (200, "2 MiB for 1 ms\n".to_owned()));
    assert_eq!(call(&address, "POST /allocate?mib=5000&ms=1 HTTP/1.1", "").await.0, 400);
}
