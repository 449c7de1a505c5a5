//! Connections to pods: kept and used again, closed when nobody needs them, and never a reason to stand still.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilotlight_crds::FunctionSpec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    Bed,
    bed::{PATIENCE, Pod},
};

/// More than sockets and buffers on the way take up.
const RESPONSE: usize = 16 << 20;
/// More than windows and buffers let through at once.
const UPLOAD: usize = 4 << 20;

/// A function whose only pod takes connections by hand.
async fn bed() -> (Bed, TcpListener) {
    let (bed, pod) = (Bed::new(FunctionSpec::from_image("x")).await, Pod::deaf("a").await);
    let listener = TcpListener::bind(("127.0.0.1", pod.observed.port.unwrap())).await.unwrap();
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    (bed, listener)
}

async fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
    read
}

#[tokio::test]
async fn a_connection_is_used_again_and_closed_when_nobody_needs_it() {
    let (bed, listener) = bed().await;
    let (mut connection, _) = listener.accept().await.unwrap();
    let pod = tokio::spawn(async move {
        for _ in 0..3 {
            read_head(&mut connection).await;
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
            connection.write_all(answer).await.unwrap();
        }
        timeout(PATIENCE, connection.read(&mut [0])).await.unwrap().unwrap()
    });
    for _ in 0..3 {
        assert_eq!(bed.get("/").await.into_body(), "ok");
    }
    assert_eq!(pod.await.unwrap(), 0, "it is closed in order");
}

#[tokio::test]
async fn a_request_goes_on_while_nobody_reads_its_response() {
    let (bed, listener) = bed().await;
    let pod = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        read_head(&mut connection).await;
        let (mut request, mut response) = connection.into_split();
        let answer = async move {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {RESPONSE}\r\n\r\n");
            response.write_all(head.as_bytes()).await.unwrap();
            // Stands still, and is broken off in the end.
            let _ = response.write_all(&vec![b'd'; RESPONSE]).await;
        };
        tokio::spawn(answer);
        let mut all = vec![0; UPLOAD];
        request.read_exact(&mut all).await.unwrap();
    });
    let stream = TokioIo::new(TcpStream::connect(bed.addr).await.unwrap());
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let upload = Full::new(Bytes::from(vec![b'u'; UPLOAD]));
    let request = Request::post("http://hello.demo/").body(upload).unwrap();
    let _unread = timeout(PATIENCE, client.send_request(request)).await.unwrap().unwrap();
    timeout(PATIENCE, pod).await.expect("the upload stands still").unwrap();
}
