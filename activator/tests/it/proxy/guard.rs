//! The guard between a client's socket and hyper, over sockets: what is refused is answered by us, in order, and
//! so that the client can read it; what is not HTTP/1 passes.

use std::time::Duration;

use futures_util::future::join_all;
use http::Response;
use pilotlight_crds::FunctionSpec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Bed,
    bed::{PATIENCE, Pod, full},
    raw::{HELLO, RawPod, exchange, statuses},
};

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: hello.demo\r\n\r\n";
const BAD: &str =
    "GET /bad HTTP/1.1\r\nHost: hello.demo\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";

async fn bed_with(pod: &Pod) -> Bed {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    bed.see(pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    bed
}

#[tokio::test]
async fn a_refusal_is_our_own_answer_with_its_reason() {
    let pod = RawPod::answering("a", HELLO, false).await;
    let bed = bed_with(&pod.pod).await;
    let long = "a".repeat(70_000);
    for (request, status, reason, detail) in [
        (BAD.to_owned(), 400, "bad-request", "not both"),
        (GOOD.replace("\r\n", "\n"), 400, "bad-request", "LF alone"),
        (GOOD.replace("/good", "/a/../b"), 400, "bad-request", "`..`"),
        (GOOD.replace("/good", "/good#"), 400, "bad-request", "fragment"),
        (GOOD.replace("1.1", "3.0"), 505, "unknown-version", "HTTP/2"),
        (GOOD.replace("good", &long), 414, "target-too-long", "64 KiB"),
        (GOOD.replace("Host:", &format!("X: {long}\r\nHost:")), 431, "head-too-large", "64 KiB"),
        (
            GOOD.replace("Host:", &format!("{}Host:", "X: 1\r\n".repeat(130))),
            431,
            "head-too-large",
            "128 headers",
        ),
        ("\x16\x03\x01\x02\0\x01".to_owned(), 400, "bad-request", "method"),
    ] {
        let (answer, closed) = exchange(bed.addr, request.clone().into_bytes()).await;
        let what = request.get(..request.len().min(120));
        assert_eq!((statuses(&answer), closed), (vec![status], true), "{what:?}: {answer}");
        assert!(answer.contains(&format!("pilotlight-reason: {reason}\r\n")), "{what:?}: {answer}");
        assert!(answer.contains("connection: close\r\n") && answer.contains(detail), "{what:?}: {answer}");
        assert!(answer.contains(r#""reached_pod":false"#), "{what:?}: {answer}");
    }
    assert_eq!(pod.log().requests, []);
}

#[tokio::test]
async fn a_refusal_comes_after_the_answers_to_what_was_asked_before() {
    let pod = Pod::serving("a", |request: http::Request<hyper::body::Incoming>| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Response::new(full(request.uri().path()))
    })
    .await;
    let bed = bed_with(&pod).await;
    let stream = format!("{GOOD}{GOOD}{BAD}{GOOD}");
    let (answer, closed) = exchange(bed.addr, stream.into_bytes()).await;
    assert_eq!((statuses(&answer), closed), (vec![200, 200, 400], true), "{answer}");
    assert_eq!(pod.asked(), 2);
}

#[tokio::test]
async fn a_stream_may_be_cut_anywhere() {
    let pod = RawPod::answering("a", HELLO, false).await;
    let bed = bed_with(&pod.pod).await;
    let chunked =
        "POST /c HTTP/1.1\r\nHost: hello.demo\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let stream = format!("{GOOD}{chunked}{GOOD}{BAD}");
    let cut_at = |cut: usize| {
        let (bed, stream) = (&bed, stream.as_bytes());
        async move {
            let mut socket = TcpStream::connect(bed.addr).await.unwrap();
            socket.set_nodelay(true).unwrap();
            for piece in [&stream[..cut], &stream[cut..]] {
                socket.write_all(piece).await.unwrap();
                // Not for order, only so that the pieces are read one by one.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let mut answer = String::new();
            tokio::time::timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
            assert_eq!(statuses(&answer), [200, 200, 200, 400], "cut at {cut}: {answer}");
        }
    };
    join_all((1..stream.len()).map(cut_at)).await;
    let log = pod.log();
    assert_eq!((log.requests.len(), log.malformed.len()), (3 * (stream.len() - 1), 0));
    assert!(log.requests.iter().filter(|seen| seen.method == "POST").all(|seen| seen.body == b"abc"));
}

#[tokio::test]
async fn who_goes_on_sending_can_read_the_refusal() {
    let pod = RawPod::answering("a", HELLO, false).await;
    let bed = bed_with(&pod.pod).await;
    let stream = format!("{BAD}{}", "x".repeat(200_000));
    let (answer, closed) = exchange(bed.addr, stream.into_bytes()).await;
    assert_eq!((statuses(&answer), closed), (vec![400], true), "{answer}");
}

#[tokio::test]
async fn a_bad_chunk_breaks_the_pods_request_off() {
    let pod = RawPod::answering("a", HELLO, false).await;
    let bed = bed_with(&pod.pod).await;
    let head = "POST / HTTP/1.1\r\nHost: hello.demo\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for bad in
        ["x\r\n", "3 \r\nabc\r\n0\r\n\r\n", "3;\0\r\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "0\r\n\n"]
    {
        let (answer, closed) = exchange(bed.addr, format!("{head}{bad}").into_bytes()).await;
        assert_eq!((statuses(&answer), closed), (vec![400], true), "{bad:?}: {answer}");
        bed.until_idle().await;
    }
    let log = pod.log();
    assert_eq!((log.requests.len(), log.malformed.len()), (0, 0), "no body looks complete: {log:?}");
}
