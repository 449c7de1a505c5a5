//! Interim answers (1xx): of pods of either protocol, to clients of either.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    client::{ResponseFuture, SendRequest},
    server::SendResponse,
};
use http::{HeaderMap, Request, Response, StatusCode};
use pilotlight_crds::{FunctionSpec, Protocol};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::{
    Bed,
    bed::{PATIENCE, Pod},
    expect::{read_to_end, read_until, scripted_pod},
};

const INTERIM: &str = "HTTP/1.1 102 Processing\r\n\r\n\
     HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";

async fn hinting_pod(bed: &Bed) {
    scripted_pod(
        bed,
        "HTTP/1.1 102 Processing\r\nkeep-alive: 5\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
}

#[tokio::test]
async fn interim_answers_reach_clients_of_http_1_1() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    hinting_pod(&bed).await;
    let get = "GET / HTTP/1.1\r\nhost: hello.demo\r\n\r\n";
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    // The last two at once: each answer comes whole, before the next.
    for sent in [get.to_owned(), get.repeat(2)] {
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut told = String::new();
        while told.matches("\r\n\r\nok").count() < sent.matches("GET").count() {
            told.push_str(&read_until(&mut stream, "ok").await);
        }
        for answer in told.split_inclusive("\r\n\r\nok") {
            let last = answer.strip_prefix(INTERIM).unwrap_or_else(|| panic!("{answer}"));
            assert!(last.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
    }
}

#[tokio::test]
async fn an_interim_answer_comes_before_the_final_one_is_there() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    scripted_pod(&bed, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n").await;
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: hello.demo\r\n\r\n").await.unwrap();
    let told = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(told, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
}

#[tokio::test]
async fn clients_of_http_1_0_get_no_interim_answers() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    hinting_pod(&bed).await;
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\nhost: hello.demo\r\n\r\n").await.unwrap();
    let told = read_to_end(stream).await;
    assert!(told.starts_with("HTTP/1.0 200 OK"), "{told}");
}

#[tokio::test]
async fn other_interim_answers_never_break_the_final_one() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    hinting_pod(&bed).await;
    for _ in 0..2 {
        let response = bed.get("/").await;
        assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"ok"[..]));
        assert!(!response.headers().contains_key("link"), "what was interim is no part of the final answer");
    }
}

/// A pod of HTTP/2 whose streams are answered in turn: the first in one way, and all others in another.
async fn http2_pod<A, B>(
    bed: &Bed,
    first: fn(RecvStream, SendResponse<Bytes>) -> A,
    then: fn(RecvStream, SendResponse<Bytes>) -> B,
) where
    A: Future<Output = ()> + Send + 'static,
    B: Future<Output = ()> + Send + 'static,
{
    let pod = Pod::deaf("a").await;
    let listener = TcpListener::bind(("127.0.0.1", pod.observed.port.unwrap())).await.unwrap();
    tokio::spawn(async move {
        let mut begun = false;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut connection) = h2::server::handshake(stream).await else { continue };
            while let Some(Ok((request, respond))) = connection.accept().await {
                match std::mem::replace(&mut begun, true) {
                    false => drop(tokio::spawn(first(request.into_body(), respond))),
                    true => drop(tokio::spawn(then(request.into_body(), respond))),
                }
            }
        }
    });
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
}

fn status(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

async fn hint(_: RecvStream, mut respond: SendResponse<Bytes>) {
    respond.send_informational(status(102)).unwrap();
    let mut hints = status(103);
    hints.headers_mut().insert("link", "</a.css>; rel=preload".parse().unwrap());
    respond.send_informational(hints).unwrap();
    respond.send_response(status(200), false).unwrap().send_data("ok".into(), true).unwrap();
}

/// Answers with what it is sent, once it has asked for that.
async fn ask_and_echo(mut body: RecvStream, mut respond: SendResponse<Bytes>) {
    respond.send_informational(status(100)).unwrap();
    let body = body.data().await.unwrap().unwrap();
    respond.send_response(status(200), false).unwrap().send_data(body, true).unwrap();
}

fn h2c() -> FunctionSpec {
    FunctionSpec { protocol: Protocol::H2c, ..FunctionSpec::from_image("x") }
}

async fn http2_client(bed: &Bed) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(bed.addr).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// What is said before the response, and the response.
async fn heard(mut response: ResponseFuture) -> (Vec<(u16, HeaderMap)>, Response<RecvStream>) {
    let mut interim = Vec::new();
    let all = async {
        while let Some(said) = poll_fn(|cx| response.poll_informational(cx)).await {
            let (parts, ()) = said.unwrap().into_parts();
            interim.push((parts.status.as_u16(), parts.headers));
        }
        response.await.unwrap()
    };
    let last = tokio::time::timeout(PATIENCE, all).await.expect("an answer");
    (interim, last)
}

#[tokio::test]
async fn interim_answers_reach_clients_of_http2() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let bed = Bed::new(FunctionSpec { protocol, ..FunctionSpec::from_image("x") }).await;
        match protocol {
            Protocol::Http1 => hinting_pod(&bed).await,
            Protocol::H2c => http2_pod(&bed, hint, hint).await,
        }
        let mut sender = http2_client(&bed).await;
        for _ in 0..2 {
            let request = Request::get("http://hello.demo/").body(()).unwrap();
            let (interim, mut last) = heard(sender.send_request(request, true).unwrap().0).await;
            let said: Vec<_> = interim.iter().map(|(status, _)| *status).collect();
            assert_eq!(said, [102, 103], "{protocol:?}");
            assert!(interim[0].1.is_empty(), "what ends at this hop is not passed on: {interim:?}");
            assert_eq!(interim[1].1["link"], "</a.css>; rel=preload");
            assert_eq!((last.status(), last.headers().contains_key("link")), (StatusCode::OK, false));
            assert_eq!(last.body_mut().data().await.unwrap().unwrap(), "ok");
        }
    }
}

#[tokio::test]
async fn interim_answers_of_http2_reach_clients_of_http_1_1() {
    let bed = Bed::new(h2c()).await;
    http2_pod(&bed, hint, hint).await;
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: hello.demo\r\n\r\n").await.unwrap();
    let told = read_until(&mut stream, "ok").await;
    let last = told.strip_prefix(INTERIM).unwrap_or_else(|| panic!("{told}"));
    assert!(last.starts_with("HTTP/1.1 200 OK\r\n"), "{told}");
}

#[tokio::test]
async fn clients_of_http2_hear_when_the_body_is_wanted() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let bed = Bed::new(FunctionSpec { protocol, ..FunctionSpec::from_image("x") }).await;
        match protocol {
            Protocol::Http1 => bed.see(&Pod::serving("a", super::expect::echo).await),
            Protocol::H2c => http2_pod(&bed, ask_and_echo, ask_and_echo).await,
        }
        let request = Request::post("http://hello.demo/").header("expect", "100-continue").body(()).unwrap();
        let (mut response, mut body) = http2_client(&bed).await.send_request(request, false).unwrap();
        let said = tokio::time::timeout(PATIENCE, poll_fn(|cx| response.poll_informational(cx))).await;
        let said = said.expect("the body is asked for").unwrap().unwrap();
        assert_eq!(said.status(), StatusCode::CONTINUE, "{protocol:?}");
        body.send_data("hello".into(), true).unwrap();
        let (more, mut last) = heard(response).await;
        assert!(more.is_empty(), "said once: {more:?}");
        assert_eq!(last.body_mut().data().await.unwrap().unwrap(), "hello");
    }
}

#[tokio::test]
async fn what_a_pod_has_not_looked_at_is_sent_again_whatever_it_is() {
    async fn refuse(_: RecvStream, mut respond: SendResponse<Bytes>) {
        respond.send_reset(Reason::REFUSED_STREAM);
    }
    let bed = Bed::new(h2c()).await;
    http2_pod(&bed, refuse, ask_and_echo).await;
    let request = Request::post("http://hello.demo/").body(()).unwrap();
    let (response, mut body) = http2_client(&bed).await.send_request(request, false).unwrap();
    body.send_data("hello".into(), true).unwrap();
    let (_, mut last) = heard(response).await;
    assert_eq!(last.status(), StatusCode::OK);
    assert_eq!(last.body_mut().data().await.unwrap().unwrap(), "hello");
}
