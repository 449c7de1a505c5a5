//! Going away: what is in flight ends well, what is held is answered, and a WebSocket connection is closed
//! between two frames.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use pilotlight_crds::{FunctionSpec, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use super::{
    Bed,
    bed::{PATIENCE, Pod, after, get},
    websocket::{
        GOING_AWAY,
        client::{AnySocket, handshake, http1, open_http1, open_http2, rest},
        serving, silent, spec,
    },
};

/// All that still comes; then the client closes as well.
async fn last_words(mut socket: AnySocket) -> Vec<u8> {
    rest(&mut socket).await.unwrap()
}

/// Shorter than anything that a test would wait for by mistake.
const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn what_is_in_flight_ends_well_and_connections_close() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    bed.see(&Pod::serving("a", after(Duration::from_millis(300))).await);
    let mut sender = bed.connect().await;
    let request = async {
        let response = sender.send_request(get("/")).await.unwrap();
        (response.headers().clone(), response.into_body().collect().await.unwrap().to_bytes())
    };
    let ((headers, body), ended) = tokio::join!(request, async {
        bed.until("one is in flight", |report| report.in_flight == 1).await;
        bed.end(PATIENCE).await
    });
    assert_eq!((&headers["connection"], &body[..]), (&"close".parse().unwrap(), &b"hello"[..]));
    assert!(ended);
}

/// The type, the stream and the payload of the next HTTP/2 frame.
async fn frame(stream: &mut TcpStream) -> (u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await.unwrap().unwrap();
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.unwrap();
    (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload)
}

#[tokio::test]
async fn http2_is_told_in_two_steps_and_streams_are_completed() {
    const DATA: u8 = 0;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    bed.see(&Pod::serving("a", after(Duration::from_millis(300))).await);
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    // The preface, SETTINGS, and GET / with the host as a literal.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let request = b"\0\0\x0f\x01\x05\0\0\0\x01\x82\x84\x86\x41\x0ahello.demo";
    stream.write_all(&[&preface[..], request].concat()).await.unwrap();
    let client = async {
        let (mut last_streams, mut body) = (Vec::new(), Vec::new());
        while last_streams.len() < 2 || body.is_empty() {
            match frame(&mut stream).await {
                (DATA, 1, payload) => body.extend(payload),
                // The second step follows when the client has certainly seen the first.
                (PING, 0, payload) => {
                    stream.write_all(&[b"\0\0\x08\x06\x01\0\0\0\0", &payload[..]].concat()).await.unwrap();
                }
                (GOAWAY, 0, payload) => {
                    last_streams.push(u32::from_be_bytes(payload[..4].try_into().unwrap()));
                    assert_eq!(payload[4..8], [0; 4], "no error");
                }
                _ => {}
            }
        }
        (last_streams, body, rest(&mut stream).await.unwrap())
    };
    let ((last_streams, body, _), ended) = tokio::join!(client, async {
        bed.until("one is in flight", |report| report.in_flight == 1).await;
        bed.end(PATIENCE).await
    });
    assert_eq!((last_streams, &body[..]), (vec![(1 << 31) - 1, 1], &b"hello"[..]));
    assert!(ended);
}

#[tokio::test]
async fn what_is_still_held_at_the_end_is_told_so() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let ((first, second), ended) = tokio::join!(async { tokio::join!(bed.get("/"), bed.get("/")) }, async {
        bed.until("two are held", |report| report.held == 2).await;
        bed.end(SHORT).await
    });
    for response in [first, second] {
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["pilotlight-reason"], "activator-leaving");
        assert_eq!(response.headers()["retry-after"], "1");
        let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(problem["reached_pod"], false);
    }
    assert!(ended, "and then there was nothing to wait for");
    assert_eq!(bed.report().held, 0);
}

#[tokio::test]
async fn what_is_held_while_the_activator_drains_still_gets_its_slot() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", after(Duration::ZERO)).await;
    let (response, ended) = tokio::join!(bed.get("/"), async {
        bed.until("one is held", |report| report.held == 1).await;
        let start = async {
            bed.until_ending().await;
            bed.see(&pod);
        };
        tokio::join!(bed.end(PATIENCE), start).0
    });
    assert_eq!((response.status().as_u16(), ended), (200, true));
}

#[tokio::test]
async fn a_handshake_passes_while_the_activator_is_about_to_go() {
    let (bed, _pod) = serving(spec(Protocol::Http1), silent).await;
    bed.process.set_leaving();
    let (response, socket) = http1(bed.addr, handshake()).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["connection"]),
        (101, &"upgrade".parse().unwrap())
    );
    drop(socket);
}

#[tokio::test]
async fn websocket_connections_are_closed_with_going_away_on_both_sides() {
    let (seen, mut at_pods) = mpsc::unbounded_channel();
    let witness = move |mut stream: TokioIo<Upgraded>| {
        let seen = seen.clone();
        async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            seen.send(all).unwrap();
        }
    };
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let (bed, _pod) = serving(spec(protocol), witness.clone()).await;
        let (one, two) = (open_http1(bed.addr).await, open_http2(bed.addr).await);
        let began = Instant::now();
        let (ended, first, second) = tokio::join!(bed.end(SHORT), last_words(one), last_words(two));
        assert!(began.elapsed() >= SHORT, "not before the time is over");
        assert_eq!((first, second), (GOING_AWAY.to_vec(), GOING_AWAY.to_vec()));
        assert!(ended, "{protocol:?}");
        for _ in 0..2 {
            let seen = at_pods.recv().await.unwrap();
            let [0x88, 0x82, key @ .., one, two] = &seen[..] else { panic!("{seen:?}") };
            assert_eq!([one ^ key[0], two ^ key[1]], [0x03, 0xe9]);
        }
        assert_eq!(bed.report().in_flight, 0);
    }
}

/// Sends the first half of a frame, and the rest of it when the close frame has come.
async fn in_two_halves(mut stream: TokioIo<Upgraded>) {
    stream.write_all(b"\x82\x0afirst").await.unwrap();
    stream.read_exact(&mut [0; 8]).await.unwrap();
    // With the rest comes the beginning of another frame, which must not be passed on.
    stream.write_all(b"later\x82\x0anever").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_frame_that_is_under_way_is_completed_first() {
    let (bed, _pod) = serving(spec(Protocol::Http1), in_two_halves).await;
    let (one, two) = (open_http1(bed.addr).await, open_http2(bed.addr).await);
    let (ended, first, second) = tokio::join!(bed.end(SHORT), last_words(one), last_words(two));
    let whole = [b"\x82\x0afirstlater", GOING_AWAY].concat();
    assert_eq!((first, second), (whole.clone(), whole));
    assert!(ended);
}

async fn half(mut stream: TokioIo<Upgraded>) {
    stream.write_all(b"\x82\x0afirst").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    std::future::pending().await
}

#[tokio::test]
async fn a_frame_that_is_never_completed_is_cut() {
    let (bed, _pod) = serving(spec(Protocol::Http1), half).await;
    let mut socket = open_http1(bed.addr).await;
    let client = async {
        let mut first = [0; 7];
        socket.read_exact(&mut first).await.unwrap();
        (first, rest(&mut socket).await)
    };
    let (_, (first, rest)) = tokio::join!(bed.end(SHORT), client);
    assert_eq!(&first, b"\x82\x0afirst");
    assert_eq!(rest.unwrap(), b"", "a close frame would be taken for payload");
}

#[tokio::test]
async fn a_pod_that_has_said_close_is_not_answered_for() {
    let (bed, _pod) = serving(spec(Protocol::Http1), |mut stream| async move {
        stream.write_all(b"\x88\x02\x03\xe8").await.unwrap();
        silent(stream).await;
    })
    .await;
    let socket = open_http1(bed.addr).await;
    let (ended, all) = tokio::join!(bed.end(SHORT), last_words(socket));
    assert_eq!(all, b"\x88\x02\x03\xe8", "one close frame is enough");
    assert!(ended);
}
