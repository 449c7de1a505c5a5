//! WebSocket clients that show each byte: the handshake by hand over HTTP/1.1, an extended CONNECT over
//! HTTP/2.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::ext::Protocol as ConnectProtocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::super::bed::{Body, PATIENCE, full};

/// The key of the RFC's example, and what a server has to answer to it.
pub(in super::super) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(in super::super) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(in super::super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

pub(super) type Sender = hyper::client::conn::http2::SendRequest<Body>;

pub(in super::super) type AnySocket = Box<dyn Socket>;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// RFC 6455, section 4.2.2.
pub(super) fn accept(key: &[u8]) -> String {
    let mut sha1 = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key);
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(sha1.finish())
}

pub(in super::super) fn handshake() -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: hello.demo\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
}

/// Sends a handshake; the answer, and the connection if it was upgraded.
pub(in super::super) async fn http1(
    addr: SocketAddr,
    handshake: String,
) -> (Response<Bytes>, Option<AnySocket>) {
    let (response, stream) = http1_tcp(addr, handshake).await;
    (response, stream.map(|stream| Box::new(stream) as AnySocket))
}

/// The same, for those who want the connection itself.
pub(super) async fn http1_tcp(addr: SocketAddr, handshake: String) -> (Response<Bytes>, Option<TcpStream>) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap();
        head.push(byte.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut response = Response::builder().status(status);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        response = response.header(name, value);
    }
    if status == 101 {
        return (response.body(Bytes::new()).unwrap(), Some(stream));
    }
    let length = response.headers_ref().unwrap()["content-length"].to_str().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (response.body(body.into()).unwrap(), None)
}

/// A connection over HTTP/1.1.
pub(in super::super) async fn open_http1(addr: SocketAddr) -> AnySocket {
    let (response, socket) = http1(addr, handshake()).await;
    socket.unwrap_or_else(|| panic!("{response:?}"))
}

/// Sends an extended CONNECT; the answer, and the stream if it is open.
pub(in super::super) async fn http2(
    addr: SocketAddr,
    protocol: &'static str,
) -> (Response<Bytes>, Option<AnySocket>) {
    send(&mut connect(addr).await, protocol).await
}

/// A stream over HTTP/2, and its connection.
pub(super) async fn open_and_keep(addr: SocketAddr) -> (AnySocket, Sender) {
    let mut sender = connect(addr).await;
    (open_on(&mut sender).await, sender)
}

/// One more stream of a connection.
pub(super) async fn open_on(sender: &mut Sender) -> AnySocket {
    let (response, socket) = send(sender, "websocket").await;
    socket.unwrap_or_else(|| panic!("{response:?}"))
}

async fn send(sender: &mut Sender, protocol: &'static str) -> (Response<Bytes>, Option<AnySocket>) {
    let mut request = Request::builder().method("CONNECT").uri("http://hello.demo/chat");
    request = request.header("sec-websocket-version", "13").header("sec-websocket-protocol", "chat");
    let mut request = request.body(full("")).unwrap();
    request.extensions_mut().insert(ConnectProtocol::from_static(protocol));
    let response = sender.send_request(request).await.unwrap();
    if response.status() == 200 {
        let (parts, body) = response.into_parts();
        let upgrade = hyper::upgrade::on(Response::from_parts(parts.clone(), body));
        let socket = tokio::time::timeout(PATIENCE, upgrade).await.unwrap().unwrap();
        return (Response::from_parts(parts, Bytes::new()), Some(Box::new(TokioIo::new(socket))));
    }
    (collect(response).await, None)
}

/// A stream over HTTP/2.
pub(in super::super) async fn open_http2(addr: SocketAddr) -> AnySocket {
    open_on(&mut connect(addr).await).await
}

/// A CONNECT without a protocol.
pub(super) async fn plain_connect(addr: SocketAddr) -> Response<Bytes> {
    let request = Request::builder().method("CONNECT").uri("hello.demo:80").body(full("")).unwrap();
    collect(connect(addr).await.send_request(request).await.unwrap()).await
}

/// All that still comes.
pub(in super::super) async fn rest(socket: &mut impl Socket) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut all)).await.expect("it ends")?;
    Ok(all)
}

async fn connect(addr: SocketAddr) -> Sender {
    let stream = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    // The server's SETTINGS come first, and only then may an extended CONNECT go out.
    let began = Instant::now();
    while !connection.is_extended_connect_protocol_enabled() {
        assert!(began.elapsed() < PATIENCE, "it is announced");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::spawn(connection);
    sender
}

async fn collect(response: Response<hyper::body::Incoming>) -> Response<Bytes> {
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}
