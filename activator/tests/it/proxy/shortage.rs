//! Memory that runs short, and clients that want more than their share: what goes on, and what does not.

use std::time::{Duration, Instant};

use http::Response;
use pilotlight_activator::memory::{GRACE, IDLE, Shortage, UNREAD};
use pilotlight_crds::FunctionSpec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Bed,
    bed::{PATIENCE, Pod, after, full},
    frames::{Raw, get},
};

const BUDGET: u64 = 1_000 << 20;
const MUCH: usize = 64 << 20;
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: hello.demo\r\n\r\n";

/// The next answer's head, and what comes with it; empty at the end of the connection.
async fn answer(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 4096];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("an answer").unwrap();
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

async fn bed_with_pod() -> (Bed, Pod) {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", after(Duration::ZERO)).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    (bed, pod)
}

#[tokio::test]
async fn without_memory_nothing_new_is_taken_until_there_is_some() {
    let (bed, pod) = bed_with_pod().await;
    let mut open = served(&bed).await;

    let used = |percent| bed.process.memory().look(percent * (BUDGET / 100), BUDGET);
    used(100);
    open.write_all(GET).await.unwrap();
    let waiting = bed.get("/");
    let recovery = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(pod.asked(), 1, "nothing is read");
        used(50);
    };
    let (answers, ()) = tokio::join!(async { (answer(&mut open).await, waiting.await) }, recovery);
    assert!(answers.0.starts_with("HTTP/1.1 200") && answers.1.status() == 200);
}

#[tokio::test]
async fn what_is_new_is_refused_when_too_little_is_left() {
    let (bed, pod) = bed_with_pod().await;
    let mut open = served(&bed).await;
    let mut raw = Raw::connect(&bed, &[]).await;
    bed.process.memory().look(BUDGET / 100 * 93, BUDGET);
    open.write_all(GET).await.unwrap();
    let refused = answer(&mut open).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("activator-full"), "{refused}");
    assert!(refused.contains("connection: close") && refused.contains("retry-after: 1"), "{refused}");
    assert_eq!(answer(&mut open).await, "");
    raw.writer.write_all(&get(1)).await.unwrap();
    while raw.reader.heard.answered.is_empty() {
        raw.reader.next().await.expect("the connection lives");
    }
    assert_eq!((pod.asked(), raw.reader.heard.data), (1, 0), "in few words, and nothing reached the pod");
}

#[tokio::test]
async fn of_the_streams_of_a_connection_one_waits_for_memory() {
    let (bed, pod) = bed_with_pod().await;
    let mut raw = Raw::connect(&bed, &[]).await;
    bed.process.memory().look(BUDGET / 100 * 93, BUDGET);
    raw.writer.write_all(&[get(1), get(3), get(5)].concat()).await.unwrap();
    while raw.reader.heard.answered != [3, 5] {
        raw.reader.next().await.expect("two are refused");
    }
    assert_eq!(pod.asked(), 0);
    bed.process.memory().look(BUDGET / 100 * 50, BUDGET);
    while raw.reader.heard.data == 0 {
        raw.reader.next().await.expect("one is served");
    }
    assert_eq!(pod.asked(), 1);
}

#[tokio::test]
async fn while_memory_is_short_nothing_is_held_and_the_rest_goes_on() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    bed.process.memory().look(BUDGET / 100 * 85, BUDGET);
    assert_eq!(bed.process.memory().shortage(), Shortage::High);
    let refused = bed.get("/").await;
    let header = |name: &str| refused.headers()[name].to_str().unwrap();
    assert_eq!((refused.status().as_u16(), header("pilotlight-reason")), (503, "activator-full"));
    assert_eq!((header("connection"), header("retry-after")), ("close", "1"));
    let pod = Pod::serving("a", after(Duration::ZERO)).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    assert_eq!(bed.get("/").await.status(), 200);
}

/// Asks once, and keeps the connection.
async fn served(bed: &Bed) -> TcpStream {
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(GET).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    stream
}

#[tokio::test]
async fn without_memory_who_does_nothing_is_ended_and_who_has_done_so_for_longest_first() {
    let (bed, _pod) = bed_with_pod().await;
    let Raw { mut reader, writer: _open } = Raw::connect(&bed, &[]).await;
    let mut first = served(&bed).await;
    let mut second = served(&bed).await;
    until_owed(&bed, 3 * IDLE).await;
    let collect = || bed.process.memory().collect(BUDGET / 100 * 75 + IDLE, BUDGET);
    collect();
    while reader.heard.goaway.is_none() {
        reader.next().await.expect("it is told");
    }
    collect();
    assert_eq!(answer(&mut first).await, "", "and this one is closed at once");
    assert_eq!(bed.reached.with_label_values(&["idle"]).get(), 1);
    second.write_all(GET).await.unwrap();
    assert!(answer(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn without_room_for_a_connection_who_has_done_nothing_for_longest_makes_some() {
    let bed = Bed::with_limits(FunctionSpec::from_image("x"), |limits| limits.connections = 2).await;
    let pod = Pod::serving("a", after(Duration::ZERO)).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    let mut first = served(&bed).await;
    let mut second = served(&bed).await;
    let _third = served(&bed).await;
    assert_eq!(answer(&mut first).await, "");
    second.write_all(GET).await.unwrap();
    assert!(answer(&mut second).await.starts_with("HTTP/1.1 200"));
}

/// An activator with little memory left, and a pod that answers with more than all buffers on the way can hold.
async fn bed_with_much() -> Bed {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", |_| async { Response::new(full(&"x".repeat(MUCH))) }).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    bed.process.memory().look(BUDGET / 100 * 50, BUDGET);
    bed
}

/// Waits until so many bytes have been kept for a while by those who do not go on.
async fn until_owed(bed: &Bed, bytes: u64) {
    let came = Instant::now();
    while bed.process.memory().owed() < bytes {
        assert!(came.elapsed() < PATIENCE, "{} of {bytes}", bed.process.memory().owed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn without_memory_who_does_not_read_is_ended_and_who_keeps_most_first() {
    let bed = bed_with_much().await;
    // One that keeps three streams' windows shut, and one that does not read from its socket.
    let mut raw = Raw::connect(&bed, &[(4, 0)]).await;
    raw.writer.write_all(&[get(1), get(3), get(5)].concat()).await.unwrap();
    until_owed(&bed, 3 * UNREAD).await;
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(GET).await.unwrap();
    until_owed(&bed, 4 * UNREAD).await;

    // As much as one of them keeps is wanted.
    let collect = |bytes| bed.process.memory().collect(BUDGET / 100 * 75 + bytes, BUDGET);
    collect(UNREAD);
    while raw.reader.heard.resets.len() < 3 {
        raw.reader.next().await.expect("the connection lives");
    }
    bed.until("the other one goes on", |report| report.in_flight == 1).await;
    let ended = |limit: &str| bed.reached.with_label_values(&[limit]).get();
    assert_eq!((ended("memory"), ended("slow-stream"), ended("slow-reader")), (3, 0, 0));

    collect(UNREAD);
    bed.until_idle().await;
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it ends");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(ended("memory"), 4);
}

#[tokio::test]
async fn who_reads_again_in_time_keeps_what_it_has() {
    let bed = bed_with_much().await;
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(GET).await.unwrap();
    until_owed(&bed, UNREAD).await;
    let mut piece = vec![0; 1 << 20];
    let mut read = 0;
    while bed.process.memory().owed() > 0 {
        read += stream.read(&mut piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bed.process.memory().collect(BUDGET, BUDGET);
    while read < MUCH {
        let more = stream.read(&mut piece).await.unwrap();
        assert!(more > 0, "{read} bytes of {MUCH}");
        read += more;
    }
}

#[tokio::test]
async fn a_head_that_has_come_in_part_gives_way_too() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let memory = bed.process.memory();
    memory.look(BUDGET / 2, BUDGET);
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream
        .write_all(&[b"GET / HTTP/1.1\r\nHost: hello.demo\r\nX: ", vec![b'x'; 20_000].as_slice()].concat())
        .await
        .unwrap();
    let came = Instant::now();
    // A piece is read, and the next one finds no memory.
    while memory.owed() == 0 {
        assert!(came.elapsed() < PATIENCE, "it waits");
        memory.look(BUDGET / 2, BUDGET);
        stream.write_all(b"x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        memory.look(BUDGET, BUDGET);
        stream.write_all(b"x").await.unwrap();
        tokio::time::sleep(2 * GRACE).await;
    }
    memory.collect(BUDGET, BUDGET);
    let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 100])).await.expect("it ends");
    assert!(matches!(end, Ok(0) | Err(_)));
    assert_eq!(bed.reached.with_label_values(&["memory"]).get(), 1);
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
