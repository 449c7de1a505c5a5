//! Clients that take their time: whoever keeps us waiting too long is let go, and nobody else.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::{Frame, Incoming};
use pilotlight_activator::proxy::{Limits, MinRate};
use pilotlight_crds::{FunctionSpec, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Bed,
    bed::{Body, PATIENCE, Pod, after, full},
    frames::{DATA, END_HEADERS, GOAWAY, HEADERS, PING, Raw, WINDOW_UPDATE, frame, get, head},
};

const SHORT: Duration = Duration::from_millis(300);
const TICK: Duration = Duration::from_millis(30);

/// Limits that are reached within a test.
fn impatient(limits: &mut Limits) {
    limits.clocks.head = SHORT;
    limits.clocks.idle = SHORT;
    limits.rate = MinRate { bytes_per_second: 1_000, grace: SHORT, stall: SHORT };
}

async fn bed_with<F, A>(answer: F) -> (Bed, Pod)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let bed = Bed::with_limits(FunctionSpec::from_image("x"), impatient).await;
    let pod = Pod::serving("a", answer).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    (bed, pod)
}

/// Reads the whole request, and answers with its length.
async fn count(request: Request<Incoming>) -> Response<Body> {
    let length = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
    Response::new(full(&length.to_string()))
}

/// More than all buffers on the way can hold.
async fn flood(_: Request<Incoming>) -> Response<Body> {
    let pieces = (0..4_096).map(|_| Ok(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024]))));
    Response::new(BodyExt::boxed_unsync(StreamBody::new(stream::iter(pieces))))
}

/// An event now and then, for three times as long as any client may be slow.
async fn events(_: Request<Incoming>) -> Response<Body> {
    let events = stream::unfold(0, |n| async move {
        tokio::time::sleep(SHORT / 2).await;
        (n < 6).then(|| (Ok(Frame::data(Bytes::from_static(b"event\n"))), n + 1))
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(events)))
}

/// What comes until the connection ends, and whether it ended in order.
async fn rest(stream: &mut TcpStream) -> (String, bool) {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let in_order = read.expect("the connection is ended").is_ok();
    (String::from_utf8_lossy(&answer).into_owned(), in_order)
}

/// Sends bytes one by one until the connection is ended; what came back.
async fn drip(bed: &Bed, opening: &str, rest_of_it: &[u8]) -> String {
    let (mut reader, mut writer) = TcpStream::connect(bed.addr).await.unwrap().into_split();
    writer.write_all(opening.as_bytes()).await.unwrap();
    let write = async {
        for byte in rest_of_it {
            tokio::time::sleep(TICK).await;
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut answer));
    tokio::select! { read = read => drop(read.expect("the connection is ended")), () = write => {} }
    String::from_utf8_lossy(&answer).into_owned()
}

impl Bed {
    fn reached(&self, limit: &str) -> u64 {
        self.reached.with_label_values(&[limit]).get()
    }
}

#[tokio::test]
async fn heads_come_in_time_or_not_at_all() {
    let (bed, pod) = bed_with(after(Duration::ZERO)).await;
    let long = format!("Host: hello.demo\r\nX: {}\r\n\r\n", "x".repeat(1_000));
    assert_eq!(drip(&bed, "", b"").await, "", "silent from the beginning");
    assert_eq!(drip(&bed, "PRI * HTTP/2.0\r\n", b"").await, "", "part of HTTP/2's preface");
    assert_eq!(drip(&bed, "GET / HTTP/1.1\r\n", long.as_bytes()).await, "", "byte by byte");
    let whole = "GET / HTTP/1.1\r\nHost: hello.demo\r\n\r\n";
    let second = drip(&bed, &format!("{whole}GET / HTTP/1.1\r\n"), long.as_bytes()).await;
    assert!(second.starts_with("HTTP/1.1 200") && second.ends_with("hello"), "{second}");
    assert_eq!(pod.asked(), 1);
    assert_eq!(bed.reached("slow-head") + bed.reached("idle"), 4);
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let (bed, _pod) = bed_with(after(3 * SHORT)).await;
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: hello.demo\r\n\r\n").await.unwrap();
    let (answer, in_order) = rest(&mut stream).await;
    assert!(answer.ends_with("hello") && in_order, "{answer}");
    assert_eq!(bed.reached("idle"), 1);
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_even_if_it_pings() {
    let (bed, _pod) = bed_with(after(3 * SHORT)).await;
    let Raw { mut reader, mut writer } = Raw::connect(&bed, &[]).await;
    writer.write_all(&get(1)).await.unwrap();
    let write = async {
        while writer.write_all(&frame(PING, 0, 0, &[0; 8])).await.is_ok() {
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::join!(write, reader.until_end());
    assert_eq!((&*reader.heard.answered, reader.heard.goaway), (&[1][..], Some(0)));
    assert_eq!(bed.reached("idle"), 1);
}

#[tokio::test]
async fn a_slow_body_is_answered_with_408() {
    let (bed, pod) = bed_with(count).await;
    let head = "POST / HTTP/1.1\r\nHost: hello.demo\r\nContent-Length: 1000\r\n\r\n";
    for (what, body) in [("nothing of it", "".to_owned()), ("byte by byte", "x".repeat(1_000))] {
        let answer = drip(&bed, head, body.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("slow-body"), "{what}: {answer}");
        assert!(answer.contains("connection: close"), "{what}: {answer}");
    }
    bed.until_idle().await;
    assert_eq!(pod.asked(), 2);
}

#[tokio::test]
async fn a_body_that_comes_at_the_rate_may_take_as_long_as_it_likes() {
    let (bed, _pod) = bed_with(count).await;
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: hello.demo\r\nConnection: close\r\nContent-Length: 90000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Well above the rate: this machine may stop for a second, too.
    for _ in 0..30 {
        stream.write_all(&[b'x'; 3_000]).await.unwrap();
        tokio::time::sleep(TICK).await;
    }
    let (answer, _) = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("90000"), "{answer}");
}

#[tokio::test]
async fn a_pod_that_reads_slowly_is_not_held_against_the_client() {
    let (bed, _pod) = bed_with(|request: Request<Incoming>| async move {
        tokio::time::sleep(3 * SHORT).await;
        count(request).await
    })
    .await;
    let request = Request::post("/").header("host", "hello.demo").body(full(&"x".repeat(4 << 20))).unwrap();
    let response = bed.ask(request).await;
    assert_eq!((response.status().as_u16(), response.body().as_ref()), (200, b"4194304".as_slice()));
}

#[tokio::test]
async fn a_client_stream_of_grpc_may_pause() {
    let (bed, _pod) = bed_with(count).await;
    let mut raw = Raw::connect(&bed, &[]).await;
    let mut block = head("POST");
    block.extend([0x00, 12]);
    block.extend(b"content-type");
    block.push(16);
    block.extend(b"application/grpc");
    raw.writer.write_all(&frame(HEADERS, END_HEADERS, 1, &block)).await.unwrap();
    tokio::time::sleep(3 * SHORT).await;
    raw.writer.write_all(&frame(DATA, 1, 1, b"message")).await.unwrap();
    while raw.reader.heard.data == 0 {
        raw.reader.next().await.expect("the connection lives");
    }
    assert_eq!(raw.reader.heard.resets.len(), 0);
}

#[tokio::test]
async fn who_reads_nothing_of_a_response_is_reset() {
    let (bed, _pod) = bed_with(flood).await;
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: hello.demo\r\n\r\n").await.unwrap();
    bed.until("the request is in flight", |report| report.in_flight == 1).await;
    bed.until("the slot is free again", |report| report.in_flight == 0).await;
    assert_eq!(bed.reached("slow-reader"), 1);
    let (_, in_order) = rest(&mut stream).await;
    assert!(!in_order, "a reset, never what looks complete");
}

/// Sends a body for as long as anybody takes it, and reads nothing.
async fn send_until_cut(bed: &Bed) {
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: hello.demo\r\nContent-Length: 99999999999\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 1 << 20];
    let send = async { while stream.write_all(&piece).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, send).await.expect("the connection is cut");
}

#[tokio::test]
async fn a_pod_that_reads_nothing_itself_hears_that_who_reads_nothing_is_gone() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let bed =
            Bed::with_limits(FunctionSpec { protocol, ..FunctionSpec::from_image("x") }, impatient).await;
        let busy = Arc::new(());
        let counted = Arc::clone(&busy);
        // What it cannot send back it does not read.
        let echo = move |request: Request<Incoming>| {
            let frames = BodyStream::new(request.into_body())
                .scan(Arc::clone(&counted), |_until_dropped, frame| std::future::ready(frame.ok().map(Ok)));
            std::future::ready(Response::new(BodyExt::boxed_unsync(StreamBody::new(frames))))
        };
        bed.see(&match protocol {
            Protocol::Http1 => Pod::serving("a", echo).await,
            Protocol::H2c => Pod::serving_http2("a", echo).await,
        });
        bed.until("the pod answers", |report| report.ready == 1).await;
        let idle = Arc::strong_count(&busy);
        send_until_cut(&bed).await;
        bed.until("the slot is free again", |report| report.in_flight == 0).await;
        let ended = format!("the pod has ended it, too, over {protocol:?}");
        bed.until(&ended, |_| Arc::strong_count(&busy) <= idle).await;
    }
}

#[tokio::test]
async fn who_reads_a_long_response_at_the_rate_gets_it() {
    let (bed, _pod) = bed_with(flood).await;
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    let head = "GET / HTTP/1.1\r\nHost: hello.demo\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut buffer, mut read) = (vec![0; 1 << 20], 0);
    loop {
        match stream.read(&mut buffer).await.expect("no reset") {
            0 => break,
            more => read += more,
        }
        tokio::time::sleep(TICK / 2).await;
    }
    assert!(read > 64 << 20, "{read}");
    assert_eq!(bed.reached("slow-reader"), 0);
}

#[tokio::test]
async fn streams_whose_window_stays_shut_are_reset_and_the_connection_lives() {
    let (bed, _pod) = bed_with(after(Duration::ZERO)).await;
    // SETTINGS_INITIAL_WINDOW_SIZE: nothing may be sent on any stream.
    let mut raw = Raw::connect(&bed, &[(4, 0)]).await;
    let open = [get(1), get(3), frame(WINDOW_UPDATE, 0, 5, &[0, 0, 1, 0])];
    raw.writer
        .write_all(&[open[0].clone(), open[1].clone(), get(5), open[2].clone()].concat())
        .await
        .unwrap();
    while raw.reader.heard.resets.len() < 2 {
        raw.reader.next().await.expect("the connection lives");
    }
    assert_eq!(raw.reader.heard.resets.keys().collect::<Vec<_>>(), [&1, &3]);
    assert_eq!(raw.reader.heard.data, 5, "the stream with a window is answered");
    assert_eq!(bed.reached("slow-stream"), 2);
    bed.until_idle().await;
}

#[tokio::test]
async fn who_waits_for_events_is_no_slow_reader() {
    let (bed, _pod) = bed_with(events).await;
    assert_eq!(bed.get("/").await.body(), "event\n".repeat(6).as_bytes());
    let mut raw = Raw::connect(&bed, &[]).await;
    raw.writer.write_all(&get(1)).await.unwrap();
    while raw.reader.heard.data < 36 {
        assert_ne!(raw.reader.next().await.expect("the connection lives"), GOAWAY);
    }
    assert_eq!(bed.reached("slow-stream") + bed.reached("slow-reader"), 0);
}
