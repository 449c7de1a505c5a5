//! What pods answer that is not HTTP, or could be read in two ways: the client gets a 502 or a response that
//! is visibly cut, and nothing of it ends up in another client's response.

use futures_util::future::join_all;
use pilotlight_crds::FunctionSpec;

use super::{
    Bed,
    raw::{HELLO, RawPod, exchange, statuses},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: hello.demo\r\nConnection: close\r\n\r\n";

async fn bed_with(answer: &str, closes: bool) -> (Bed, RawPod) {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = RawPod::answering("a", answer, closes).await;
    bed.see(&pod.pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    (bed, pod)
}

/// Enough of a text to know it by.
fn short(text: &str) -> &str {
    text.get(..400).unwrap_or(text)
}

#[tokio::test]
async fn malformed_heads_are_answered_with_502() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let long = "a".repeat(200_000);
    for answer in [
        format!("{ok}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{ok}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        format!("{ok}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        format!("{ok}Content-Length: 5, 5\r\n\r\nhello"),
        format!("{ok}Content-Length: -5\r\n\r\nhello"),
        format!("{ok}Content-Length: +5\r\n\r\nhello"),
        format!("{ok}Content-Length:\r\n\r\nhello"),
        format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{ok}Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n"),
        format!("{ok}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        format!("{ok}X: a\rb\r\nContent-Length: 0\r\n\r\n"),
        format!("{ok}X: a\0b\r\nContent-Length: 0\r\n\r\n"),
        format!("{ok}X: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
        format!("{ok}X : a\r\nContent-Length: 0\r\n\r\n"),
        format!("{ok}X\r\nContent-Length: 0\r\n\r\n"),
        format!("{ok}X: {long}\r\nContent-Length: 0\r\n\r\n"),
        format!("{ok}{}\r\n", "X: 1\r\n".repeat(200)),
        "HTTP/1.1 99 OK\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n".into(),
        "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
        "ICY 200 OK\r\n\r\n".into(),
        "hello".into(),
        "\r\n\r\nhello".into(),
    ] {
        let (bed, pod) = bed_with(&answer, true).await;
        let what = short(&answer);
        let (heard, _) = exchange(bed.addr, GET.into()).await;
        assert_eq!(statuses(&heard), [502], "{what:?}: {}", short(&heard));
        let told = ["\"reached_pod\":true", "pilotlight-reason: pod-malformed\r\n"];
        assert!(told.iter().all(|told| heard.contains(told)), "{what:?}: {}", short(&heard));
        assert_eq!(pod.log().requests.len(), 1, "{what:?} is not asked for again");
        bed.until_idle().await;
    }
}

#[tokio::test]
async fn malformed_bodies_end_as_a_cut() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for answer in [
        format!("{chunked}x\r\n"),
        format!("{chunked}-1\r\nabc\r\n0\r\n\r\n"),
        format!("{chunked}3\r\nabcd\r\n0\r\n\r\n"),
        format!("{chunked}3;a\nb\r\nabc\r\n0\r\n\r\n"),
        format!("{chunked}FFFFFFFFFFFFFFFFF\r\nabc"),
        chunked.to_owned(),
        format!("{chunked}0\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".into(),
    ] {
        let (bed, _pod) = bed_with(&answer, true).await;
        let (heard, closed) = exchange(bed.addr, GET.into()).await;
        assert_eq!((statuses(&heard), closed), (vec![200], true), "{answer:?}: {heard}");
        let complete = heard.ends_with("0\r\n\r\n") || heard.contains("content-length: 3\r\n");
        assert!(heard.contains("abc") && !complete, "{answer:?}: {heard}");
        bed.until_idle().await;
    }
}

#[tokio::test]
async fn what_a_pod_says_too_much_reaches_nobody() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (request, answer) in [
        (GET.to_owned(), format!("{HELLO}{evil}")),
        (GET.to_owned(), format!("{HELLO}\r\n{evil}")),
        (GET.to_owned(), format!("HTTP/1.1 204 No Content\r\nContent-Length: {}\r\n\r\n{evil}", evil.len())),
        (GET.to_owned(), format!("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n{evil}")),
        (GET.to_owned(), format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}")),
        (GET.replace("GET", "HEAD"), format!("{HELLO}{evil}")),
    ] {
        let (bed, pod) = bed_with(&answer, false).await;
        for round in 0..20 {
            let heard = join_all((0..4).map(|_| exchange(bed.addr, request.clone().into()))).await;
            for (heard, _) in heard {
                assert_eq!(statuses(&heard).len(), 1, "{answer:?}: {heard}");
                assert!(!heard.contains("evil"), "round {round} of {answer:?}: {heard}");
            }
        }
        assert_eq!(pod.log().malformed, [] as [String; 0]);
        assert!(pod.log().requests.len() >= 80, "every client has asked the pod");
    }
}

#[tokio::test]
async fn a_sound_answer_passes_however_it_says_its_length() {
    for (answer, body) in [
        (HELLO.to_owned(), "hello"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(), "hello"),
        ("HTTP/1.1 200 OK\r\n\r\nto the end".into(), "to the end"),
        ("HTTP/1.0 200 OK\r\n\r\nto the end".into(), "to the end"),
        (format!("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{HELLO}"), "hello"),
        ("HTTP/1.1 299\r\nContent-Length: 5\r\n\r\nhello".into(), "hello"),
    ] {
        let (bed, _pod) = bed_with(&answer, true).await;
        let (heard, _) = exchange(bed.addr, GET.into()).await;
        assert!(
            matches!(statuses(&heard)[..], [200 | 299] | [102, 200]) && heard.contains(body),
            "{answer:?}: {heard}"
        );
    }
}
