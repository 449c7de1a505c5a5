//! Memory that runs short, and clients that want more than their share: what goes on, and what does not.

use std::time::{Duration, Instant};

use http::Response;
use pilotlight_activator::memory::Shortage;
use pilotlight_crds::FunctionSpec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Bed,
    bed::{PATIENCE, Pod, after, full},
    frames::{RST_STREAM, Raw, get},
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: hello.demo\r\n\r\n";

/// The next answer's head, and what comes with it; empty at the end of the connection.
async fn answer(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 4096];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("an answer").unwrap();
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[tokio::test]
async fn without_memory_nothing_new_is_taken_until_there_is_some() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", after(Duration::ZERO)).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    let mut open = TcpStream::connect(bed.addr).await.unwrap();
    open.write_all(GET).await.unwrap();
    assert!(answer(&mut open).await.starts_with("HTTP/1.1 200"));

    bed.process.memory().set(Shortage::Full);
    open.write_all(GET).await.unwrap();
    let refused = answer(&mut open).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("activator-full"), "{refused}");
    assert!(refused.contains("connection: close") && refused.contains("retry-after: 1"), "{refused}");
    assert_eq!(answer(&mut open).await, "");
    assert_eq!(pod.asked(), 1, "nothing of it reached the pod");

    // Whoever was just being accepted may still be; the one after that waits.
    let waiting = [(); 2].map(|()| bed.get("/"));
    let recovery = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bed.process.memory().set(Shortage::None);
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(waiting), recovery);
    assert_eq!(answers.last().unwrap().status(), 200);
}

#[tokio::test]
async fn while_memory_is_short_nothing_is_held_and_the_rest_goes_on() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    bed.process.memory().set(Shortage::High);
    let refused = bed.get("/").await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["pilotlight-reason"]),
        (503, &"activator-full".parse().unwrap())
    );
    let pod = Pod::serving("a", after(Duration::ZERO)).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    assert_eq!(bed.get("/").await.status(), 200);
}

#[tokio::test]
async fn idle_connections_are_closed_sooner_while_memory_is_short() {
    let bed = Bed::with_limits(FunctionSpec::from_image("x"), |limits| {
        limits.clocks.head = Duration::from_millis(400);
    })
    .await;
    let raw = Raw::connect(&bed, &[]).await;
    bed.process.memory().set(Shortage::High);
    let began = Instant::now();
    let Raw { mut reader, writer: _open } = raw;
    reader.until_end().await;
    assert!(began.elapsed() < PATIENCE / 2, "{:?} instead of minutes", began.elapsed());
    assert_eq!(bed.reached.with_label_values(&["idle"]).get(), 1);
}

#[tokio::test]
async fn without_memory_who_does_not_read_is_cut_at_once() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", |_| async { Response::new(full(&"x".repeat(64 << 20))) }).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    // One that keeps its stream's window shut, and one that does not read from its socket.
    let mut raw = Raw::connect(&bed, &[(4, 0)]).await;
    raw.writer.write_all(&get(1)).await.unwrap();
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(GET).await.unwrap();
    bed.until("both are in flight", |report| report.in_flight == 2).await;
    bed.process.memory().set(Shortage::Full);
    while raw.reader.next().await.expect("the connection lives") != RST_STREAM {}
    bed.until("nothing is in flight", |report| report.in_flight == 0).await;
    let cut = |limit: &str| bed.reached.with_label_values(&[limit]).get();
    assert_eq!((cut("slow-stream"), cut("slow-reader")), (1, 1));
}

#[tokio::test]
async fn one_address_gets_its_share_of_connections() {
    let bed = Bed::with_limits(FunctionSpec::from_image("x"), |limits| limits.from_one_address = 2).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(bed.addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n").await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 404"));
        open.push(stream);
    }
    let mut third = TcpStream::connect(bed.addr).await.unwrap();
    let mut nothing = Vec::new();
    let read = tokio::time::timeout(PATIENCE, third.read_to_end(&mut nothing)).await;
    assert!(matches!(read.expect("it is closed"), Ok(0) | Err(_)));
    assert_eq!(bed.reached.with_label_values(&["address"]).get(), 1);
}
