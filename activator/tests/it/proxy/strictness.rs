//! What must not pass: ambiguous requests, forged headers, and connections of a process that leaves.

use std::time::Duration;

use http::Response;
use pilotlight_crds::FunctionSpec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Bed,
    bed::{PATIENCE, Pod, after, full},
    frames::{END_HEADERS, END_STREAM, HEADERS, Raw, frame},
    raw::{HELLO, RawPod, statuses},
};

/// Sends bytes and returns what comes back until the connection closes.
async fn raw(bed: &Bed, bytes: &str) -> String {
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("the connection is closed").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn ambiguous_requests_reach_no_pod() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", after(Duration::ZERO)).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    for head in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: hello.demo\r\nHost: hello.demo\r\n",
        "GET / HTTP/1.1\r\nHost: hello.demo/x\r\n",
        "POST / HTTP/1.1\r\nHost: hello.demo\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        "POST / HTTP/1.1\r\nHost: hello.demo\r\nTransfer-Encoding: gzip\r\n",
        "CONNECT hello.demo:80 HTTP/1.1\r\nHost: hello.demo\r\n",
        "GET / HTTP/1.1\r\nHost : hello.demo\r\n",
    ] {
        let answer = raw(&bed, &format!("{head}Connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{head:?}: {answer}");
    }
    assert_eq!(pod.asked(), 0);
}

#[tokio::test]
async fn a_pod_sees_where_a_request_comes_from_and_nothing_forged() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", |request: http::Request<hyper::body::Incoming>| async move {
        Response::new(full(&format!("{:?} {:?}", request.uri(), request.headers())))
    })
    .await;
    bed.see(&pod);
    let head = "GET /fn/demo/hello/a%2Fb?c=d HTTP/1.1\r\nHost: 1.2.3.4\r\nX-Forwarded-For: 9.9.9.9\r\n\
                Pilotlight-Session-Id: forged\r\nX-Real: kept\r\nConnection: close\r\n\r\n";
    let answer = raw(&bed, head).await;
    assert!(answer.contains("/a%2Fb?c=d "), "the prefix is gone, the rest untouched: {answer}");
    assert!(answer.contains(r#""x-forwarded-for": "127.0.0.1""#) && answer.contains("kept"), "{answer}");
    assert!(!answer.contains("forged") && !answer.contains("9.9.9.9"), "{answer}");
}

#[tokio::test]
async fn a_path_is_routed_and_forwarded_as_it_came_or_not_at_all() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = RawPod::answering("a", HELLO, false).await;
    bed.see(&pod.pod);
    let ask = async |path: &str| {
        let answer = raw(&bed, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        (statuses(&answer), pod.take().requests.into_iter().map(|seen| seen.target).collect::<Vec<_>>())
    };
    for (path, forwarded) in [
        ("/fn/demo/hello", "/"),
        ("/fn/demo/hello?a=/../b", "/?a=/../b"),
        ("/fn/demo/hello//x/", "//x/"),
        ("/fn/demo/hello/a%2Fb%2fC%20%41?%zz", "/a%2Fb%2fC%20%41?%zz"),
        ("/fn/demo/hello/...;x/.y/z..", "/...;x/.y/z.."),
        ("http://x/fn/demo/hello/a", "/a"),
    ] {
        assert_eq!(ask(path).await, (vec![200], vec![forwarded.to_owned()]), "{path}");
    }
    // Nothing that another server might resolve is let in; nothing is resolved here.
    for (path, status) in [
        ("/fn/demo/hello/../other/x", 400),
        ("/fn/demo/other/../hello", 400),
        ("/fn/demo/other/%2e%2E/hello", 400),
        ("/fn/demo/other/..%2fhello", 400),
        ("/fn/demo/other\\..\\hello", 400),
        ("/fn/demo/other/..;/hello", 400),
        ("/./fn/demo/hello", 400),
        ("/fn/demo/hello/%00", 400),
        ("/fn/demo/hell%6f", 404),
        ("/fn/demo%2Fhello", 404),
        ("//fn/demo/hello", 404),
        ("/fn//demo/hello", 404),
        ("/fn/demo/Hello", 404),
        ("/FN/demo/hello", 404),
    ] {
        assert_eq!(ask(path).await, (vec![status], vec![]), "{path}");
    }
}

#[tokio::test]
async fn an_http2_request_keeps_the_same_rules() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = RawPod::answering("a", HELLO, false).await;
    bed.see(&pod.pod);
    let host = (":authority", "hello.demo");
    let good = [(":method", "GET"), (":scheme", "http"), (":path", "/"), host];
    let with = |more: &[(&'static str, &'static str)]| [&good, more].concat();
    let instead = |name: &str, value: &'static str| {
        good.map(|field| if field.0 == name { (field.0, value) } else { field }).to_vec()
    };
    let without = |name: &str| good.into_iter().filter(|field| field.0 != name).collect::<Vec<_>>();
    let rows = [
        // RFC 9113, section 8.2: names and values.
        with(&[("X-Upper", "1")]),
        with(&[("x y", "1")]),
        with(&[("x", "a\r\nb: c")]),
        with(&[("x", "a\0")]),
        with(&[("", "a")]),
        // Section 8.2.2: headers of the connection.
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("upgrade", "websocket")]),
        with(&[("keep-alive", "5")]),
        with(&[("proxy-connection", "x")]),
        with(&[("te", "gzip")]),
        // Section 8.3: what begins with a colon.
        with(&[(":path", "/")]),
        with(&[(":status", "200")]),
        with(&[(":unknown", "1")]),
        [&[("x", "1")], &good[..]].concat(),
        without(":method"),
        without(":scheme"),
        without(":path"),
        without(":authority"),
        instead(":path", ""),
        instead(":path", "*"),
        instead(":path", "/a/../b"),
        instead(":path", "/ HTTP/1.1\r\nx: y"),
        instead(":method", "G T"),
        instead(":authority", "a@hello.demo"),
        instead(":authority", "hello.demo, b"),
        with(&[("host", "other.demo")]),
        with(&[("host", "hello.demo"), ("host", "hello.demo")]),
        // Section 8.1.1: a length that is not that of the body.
        with(&[("content-length", "5")]),
        with(&[("content-length", "0"), ("content-length", "5")]),
        with(&[("content-length", "x")]),
    ];
    for row in rows {
        let Raw { mut reader, mut writer } = Raw::connect(&bed, &[]).await;
        let block: Vec<_> = row.iter().flat_map(|(name, value)| literal(name, value)).collect();
        writer.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await.unwrap();
        let answered = async {
            while reader.heard.answered.is_empty()
                && reader.heard.resets.is_empty()
                && reader.heard.goaway.is_none()
            {
                reader.next().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.unwrap();
        assert_eq!(pod.log().requests, [], "{row:?}");
    }
    let Raw { mut reader, mut writer } = Raw::connect(&bed, &[]).await;
    let block: Vec<_> =
        with(&[("host", "HELLO.demo")]).iter().flat_map(|(name, value)| literal(name, value)).collect();
    writer.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await.unwrap();
    while reader.heard.answered.is_empty() {
        reader.next().await.unwrap();
    }
    assert_eq!(pod.log().requests.len(), 1, "what keeps the rules is forwarded");
}

/// A header of HPACK, without any table (RFC 7541, section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

#[tokio::test]
async fn who_asks_for_nothing_that_is_there_is_told() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let answer = raw(&bed, "GET / HTTP/1.1\r\nHost: nowhere\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("no-such-function"), "{answer}");
}
