//! WebSocket through the activator: over HTTP/1.1 and HTTP/2 on either side, from zero, and with all the
//! ways in which such a connection can end.

mod cases;
pub(super) mod client;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, Response, Version};
use hyper::{body::Incoming, ext::Protocol as ConnectProtocol, upgrade::Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilotlight_activator::proxy::{Clocks, Limits};
use pilotlight_crds::{FunctionSpec, Protocol, Span, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use self::client::{ACCEPT, KEY, Socket, handshake, http1, http1_tcp, http2, open_http1, open_http2};
use super::{
    Bed,
    bed::{Body, PATIENCE, Pod, full},
};

/// `hello`, masked with zeros as a client may, and as a server sends it.
pub(super) const HELLO: &[u8] = b"\x81\x85\0\0\0\0hello";
pub(super) const HELLO_BACK: &[u8] = b"\x81\x05hello";
/// Close frames with status 1001 for a client.
pub(super) const GOING_AWAY: &[u8] = b"\x88\x02\x03\xe9";

/// What a pod does with an upgraded connection.
pub(super) trait Serve<F>: Fn(TokioIo<Upgraded>) -> F + Clone + Send + Sync + 'static {}

impl<F, S: Fn(TokioIo<Upgraded>) -> F + Clone + Send + Sync + 'static> Serve<F> for S {}

pub(super) fn spec(protocol: Protocol) -> FunctionSpec {
    FunctionSpec { protocol, ..FunctionSpec::from_image("x") }
}

/// A pod that serves WebSocket in either version of HTTP; what the upgraded connection does is `serve`'s.
pub(super) async fn pod<F>(protocol: Protocol, serve: impl Serve<F>) -> Pod
where
    F: Future<Output = ()> + Send + 'static,
{
    let answer = move |mut request: Request<Incoming>| {
        let upgrade = hyper::upgrade::on(&mut request);
        let serve = serve.clone();
        tokio::spawn(async move { serve(TokioIo::new(upgrade.await.unwrap())).await });
        std::future::ready(consent(&request))
    };
    match protocol {
        Protocol::Http1 => Pod::serving("a", answer).await,
        Protocol::H2c => {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.enable_connect_protocol();
            Pod::serving_http2_with("a", builder, answer).await
        }
    }
}

/// What a WebSocket server answers to a handshake, after it has checked it.
pub(super) fn consent(request: &Request<Incoming>) -> Response<Body> {
    assert_eq!(request.headers()["sec-websocket-version"], "13");
    assert_eq!(request.uri().path(), "/chat");
    if request.version() == Version::HTTP_2 {
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(request.extensions().get::<ConnectProtocol>().unwrap().as_str(), "websocket");
        assert_eq!(request.uri().authority().unwrap(), "hello.demo");
        assert!(!request.headers().contains_key("sec-websocket-key"));
        return Response::builder().header("sec-websocket-protocol", "chat").body(full("")).unwrap();
    }
    assert_eq!(
        (request.method(), &request.headers()["host"]),
        (&Method::GET, &"hello.demo".parse().unwrap())
    );
    assert_eq!(request.headers()["upgrade"], "websocket");
    let accept = client::accept(request.headers()["sec-websocket-key"].as_bytes());
    let switch =
        Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
    switch
        .header("sec-websocket-accept", accept)
        .header("sec-websocket-protocol", "chat")
        .body(full(""))
        .unwrap()
}

/// Sends back what comes, as Autobahn wants it: messages as messages, pings as pongs.
pub(super) async fn echo(stream: TokioIo<Upgraded>) {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            break;
        }
    }
}

/// Keeps the connection open and says nothing.
pub(super) async fn silent(mut stream: TokioIo<Upgraded>) {
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

pub(super) async fn serving<F>(spec: FunctionSpec, serve: impl Serve<F>) -> (Bed, Pod)
where
    F: Future<Output = ()> + Send + 'static,
{
    let protocol = spec.protocol;
    let bed = Bed::new(spec).await;
    let pod = pod(protocol, serve).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    (bed, pod)
}

/// Sends `hello` and gets it back.
async fn exchange(socket: &mut impl Socket) {
    socket.write_all(HELLO).await.unwrap();
    let mut back = [0; HELLO_BACK.len()];
    tokio::time::timeout(PATIENCE, socket.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, HELLO_BACK);
}

/// It works, and occupies a slot until it ends.
async fn takes_a_slot(bed: &Bed, mut socket: impl Socket) {
    exchange(&mut socket).await;
    assert_eq!(bed.report().in_flight, 1);
    drop(socket);
    bed.until_idle().await;
}

#[tokio::test]
async fn http1_in_front_of_either_version() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let (bed, _pod) = serving(spec(protocol), echo).await;
        let (response, socket) = http1(bed.addr, handshake()).await;
        assert_eq!(response.status(), 101, "{protocol:?}");
        for (name, value) in [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", ACCEPT),
            ("sec-websocket-protocol", "chat"),
        ] {
            assert_eq!(response.headers()[name], value, "{protocol:?}");
        }
        takes_a_slot(&bed, socket.unwrap()).await;
    }
}

#[tokio::test]
async fn http2_in_front_of_either_version() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let (bed, _pod) = serving(spec(protocol), echo).await;
        let (response, socket) = http2(bed.addr, "websocket").await;
        assert_eq!(response.status(), 200, "{protocol:?}");
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        for absent in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
            assert!(!response.headers().contains_key(absent), "{absent}");
        }
        takes_a_slot(&bed, socket.unwrap()).await;
    }
}

#[tokio::test]
async fn from_zero() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let bed = Bed::new(spec(protocol)).await;
        let start = async {
            bed.until("two are held", |report| report.held == 2).await;
            let pod = pod(protocol, echo).await;
            bed.see(&pod);
            pod
        };
        let (mut one, mut two, _pod) = tokio::join!(open_http1(bed.addr), open_http2(bed.addr), start);
        exchange(&mut one).await;
        exchange(&mut two).await;
    }
}

#[tokio::test]
async fn what_a_pod_refuses_is_refused() {
    let refuse = |_| async { Response::builder().status(403).body(full("not you")).unwrap() };
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let bed = Bed::new(spec(protocol)).await;
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.enable_connect_protocol();
        let pod = match protocol {
            Protocol::Http1 => Pod::serving("a", refuse).await,
            Protocol::H2c => Pod::serving_http2_with("a", builder, refuse).await,
        };
        bed.see(&pod);
        for (response, socket) in [http1(bed.addr, handshake()).await, http2(bed.addr, "websocket").await] {
            assert_eq!((response.status().as_u16(), &response.body()[..]), (403, &b"not you"[..]));
            assert!(socket.is_none());
        }
        bed.until_idle().await;
    }
}

/// What the activator answers itself, to a client over HTTP/2.
#[track_caller]
fn told(response: &Response<bytes::Bytes>, status: u16, reason: &str) {
    let told = response.headers().get("pilotlight-reason").map(|reason| reason.to_str().unwrap());
    assert_eq!((response.status().as_u16(), told), (status, Some(reason)));
}

#[tokio::test]
async fn an_answer_that_is_no_consent_opens_nothing() {
    let bed = Bed::new(spec(Protocol::Http1)).await;
    bed.see(&Pod::serving("a", |_| async { Response::new(full("a page")) }).await);
    let (response, socket) = http2(bed.addr, "websocket").await;
    told(&response, 502, "upgrade-failed");
    assert!(socket.is_none(), "200 would have meant an open connection");
    let (response, _) = http1(bed.addr, handshake()).await;
    assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"a page"[..]));
}

#[tokio::test]
async fn a_pod_that_has_not_read_the_key_opens_nothing() {
    let bed = Bed::new(spec(Protocol::Http1)).await;
    let wrong = |_| async {
        let switch =
            Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        switch.header("sec-websocket-accept", ACCEPT).body(full("")).unwrap()
    };
    bed.see(&Pod::serving("a", wrong).await);
    let (response, _) = http2(bed.addr, "websocket").await;
    told(&response, 502, "upgrade-failed");
    bed.until_idle().await;
}

#[tokio::test]
async fn what_cannot_be_translated_is_told() {
    let bed = Bed::new(spec(Protocol::H2c)).await;
    bed.see(&Pod::serving_http2("a", |_| async { Response::new(full("a page")) }).await);
    let (response, _) = http2(bed.addr, "connect-udp").await;
    told(&response, 501, "unknown-protocol");
    for (response, _) in [http1(bed.addr, handshake()).await, http2(bed.addr, "websocket").await] {
        told(&response, 501, "websocket-unsupported");
    }
    for key in ["", "dGhlIHNhbXBsZQ=="] {
        let bad = handshake().replace(KEY, key);
        told(&http1(bed.addr, bad).await.0, 400, "bad-request");
    }
    let plain = client::plain_connect(bed.addr).await;
    told(&plain, 400, "bad-request");
    bed.until("nothing is in flight", |report| report.in_flight + report.held == 0).await;
}

#[tokio::test]
async fn http2_does_not_pass_as_an_upgrade() {
    let bed = Bed::new(spec(Protocol::Http1)).await;
    let answer = |request: Request<Incoming>| async move {
        assert!(!request.headers().contains_key("upgrade") && !request.headers().contains_key("connection"));
        Response::new(full("a page"))
    };
    bed.see(&Pod::serving("a", answer).await);
    let asks = handshake().replace("websocket\r\n", "h2c\r\n");
    assert_eq!(http1(bed.addr, asks).await.0.status(), 200);
}

fn timeouts(idle: &str, total: &str) -> FunctionSpec {
    let span = |text: &str| text.parse::<Span>().unwrap();
    let timeouts = Timeouts { first_byte: span("5s"), idle: span(idle), total: span(total) };
    FunctionSpec { timeouts, ..FunctionSpec::from_image("x") }
}

#[tokio::test]
async fn total_ends_with_the_handshake() {
    let (bed, _pod) = serving(timeouts("10s", "200ms"), echo).await;
    let mut socket = open_http1(bed.addr).await;
    let longer = tokio::time::Instant::now() + Duration::from_millis(600);
    while tokio::time::Instant::now() < longer {
        exchange(&mut socket).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    exchange(&mut socket).await;
}

#[tokio::test]
async fn silence_is_ended_with_a_close_frame() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let (bed, _pod) = serving(FunctionSpec { protocol, ..timeouts("200ms", "10s") }, silent).await;
        let (mut one, mut two) = (open_http1(bed.addr).await, open_http2(bed.addr).await);
        assert_eq!(client::rest(&mut one).await.unwrap(), GOING_AWAY);
        assert_eq!(client::rest(&mut two).await.unwrap(), GOING_AWAY);
        drop((one, two));
        bed.until("the slots are back", |report| report.in_flight == 0).await;
    }
}

#[tokio::test]
async fn an_open_connection_is_not_idle() {
    let short = |limits: &mut Limits| {
        limits.clocks = Clocks { head: Duration::from_millis(100), idle: Duration::from_millis(200) };
    };
    let bed = Bed::with_limits(spec(Protocol::Http1), short).await;
    bed.see(&pod(Protocol::Http1, echo).await);
    let (mut one, (mut two, mut same)) = (open_http1(bed.addr).await, client::open_and_keep(bed.addr).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    exchange(&mut one).await;
    exchange(&mut two).await;
    client::open_on(&mut same).await;
}

/// Reads to the end, and then says how much it was.
async fn count(mut stream: TokioIo<Upgraded>) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    stream.write_all(format!("{}", all.len()).as_bytes()).await.unwrap();
}

#[tokio::test]
async fn one_direction_can_end_before_the_other() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let (bed, _pod) = serving(spec(protocol), count).await;
        let (mut one, mut two) = (open_http1(bed.addr).await, open_http2(bed.addr).await);
        let sent = vec![0x82; 300_000];
        one.write_all(&sent).await.unwrap();
        one.shutdown().await.unwrap();
        assert_eq!(client::rest(&mut one).await.unwrap(), b"300000", "{protocol:?}");
        two.write_all(&sent).await.unwrap();
        two.shutdown().await.unwrap();
        assert_eq!(client::rest(&mut two).await.unwrap(), b"300000", "{protocol:?}");
        bed.until("the slots are back", |report| report.in_flight == 0).await;
    }
}

#[tokio::test]
async fn breaking_off_is_passed_on() {
    let (told, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    let serve = move |mut stream: TokioIo<Upgraded>| {
        let told = told.clone();
        async move { told.send(stream.read_to_end(&mut Vec::new()).await.is_err()).unwrap() }
    };
    let (bed, _pod) = serving(spec(Protocol::Http1), serve).await;
    let socket = http1_tcp(bed.addr, handshake()).await.1.unwrap();
    bed.until("it is open", |report| report.in_flight == 1).await;
    socket.set_zero_linger().unwrap();
    drop(socket);
    assert!(outcomes.recv().await.unwrap(), "the pod sees a reset, not an end");
    bed.until("the slot is back", |report| report.in_flight == 0).await;
}

/// More than all the buffers between a pod and a client take.
const FLOOD: usize = 32 << 20;

#[tokio::test]
async fn who_does_not_read_is_not_read_for() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let serve = move |mut stream: TokioIo<Upgraded>| {
            let sent = Arc::clone(&counted);
            async move {
                let piece = vec![0x82; 64 * 1024];
                for _ in 0..FLOOD / piece.len() {
                    stream.write_all(&piece).await.unwrap();
                    sent.fetch_add(piece.len(), Ordering::Relaxed);
                }
                stream.shutdown().await.unwrap();
            }
        };
        let (bed, _pod) = serving(spec(protocol), serve).await;
        for over_http2 in [false, true] {
            let before = sent.load(Ordering::Relaxed);
            let mut socket = if over_http2 { open_http2(bed.addr).await } else { open_http1(bed.addr).await };
            let mut last = usize::MAX;
            while last != sent.load(Ordering::Relaxed) {
                last = sent.load(Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert!(last - before < FLOOD / 2, "{} MiB were taken from the pod", (last - before) >> 20);
            assert_eq!(client::rest(&mut socket).await.unwrap().len(), FLOOD);
        }
        bed.until("the slots are back", |report| report.in_flight == 0).await;
    }
}

#[tokio::test]
async fn scaling_down_waits_for_a_connection() {
    let (bed, _pod) = serving(spec(Protocol::Http1), echo).await;
    let mut socket = open_http1(bed.addr).await;
    bed.function.scaled("r1", Ok(Some(1)), std::time::Instant::now());
    assert!(bed.function.retire(0, std::time::Instant::now()).is_none(), "its pod is in use");
    exchange(&mut socket).await;
    drop(socket);
    bed.until("the slot is back", |report| report.in_flight == 0).await;
    assert_eq!(bed.function.retire(0, std::time::Instant::now()).unwrap().replicas, 0);
}
