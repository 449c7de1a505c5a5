//! gRPC: every kind of call, deadlines, cancellation, and errors as its clients read them.
//!
//! The pods of the harder tests are bare `h2` servers, which can reset a stream when and how they like.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use pilotlight_crds::{FunctionSpec, Hold, Protocol, Span, Timeouts};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{
    Bed,
    bed::{Body, PATIENCE, Pod, full},
    http2::connect,
};

fn spec() -> FunctionSpec {
    FunctionSpec { protocol: Protocol::H2c, ..FunctionSpec::from_image("x") }
}

fn span(text: &str) -> Span {
    text.parse().unwrap()
}

/// A message as gRPC frames it: not compressed, its length, itself.
fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap();
    [&[0][..], &length.to_be_bytes(), text.as_bytes()].concat().into()
}

fn call(body: Body) -> Request<Body> {
    Request::post("http://hello.demo/service/Method")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap()
}

fn unary(timeout: &'static str) -> Request<Body> {
    let mut request = call(full(""));
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
    request
}

/// A body that is sent piece by piece.
fn piecewise() -> (mpsc::UnboundedSender<Bytes>, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (Ok(Frame::data(piece)), receiver))
    });
    (sender, BodyExt::boxed_unsync(StreamBody::new(pieces)))
}

/// Sends every message back as it comes, and then the status.
pub(super) async fn echo(request: Request<Incoming>) -> Response<Body> {
    let ok = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    let frames = stream::unfold((request.into_body(), Some(ok)), |(mut body, mut ok)| async move {
        let frame = match body.frame().await {
            Some(frame) => frame.ok()?,
            None => Frame::trailers(ok.take()?),
        };
        Some((Ok(frame), (body, ok)))
    });
    let body = BodyExt::boxed_unsync(StreamBody::new(frames));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

async fn serving(spec: FunctionSpec) -> Bed {
    let bed = Bed::new(spec).await;
    bed.see(&Pod::serving_http2("a", echo).await);
    bed.until("the pod answers", |report| report.ready == 1).await;
    bed
}

/// A pod that handles each call with the means of HTTP/2 itself. An answer that returns its stream breaks
/// the connection: nothing more is sent on it, not even a reset.
async fn bare_pod<A>(bed: &Bed, answer: fn(RecvStream, SendResponse<Bytes>) -> A)
where
    A: Future<Output = SendStream<Bytes>> + Send + 'static,
{
    let pod = Pod::deaf("a").await;
    let listener = TcpListener::bind(("127.0.0.1", pod.observed.port.unwrap())).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                let mut calls = tokio::task::JoinSet::new();
                loop {
                    tokio::select! {
                        accepted = connection.accept() => match accepted {
                            Some(Ok((request, respond))) => drop(calls.spawn(answer(request.into_body(), respond))),
                            _ => return,
                        },
                        Some(stream) = calls.join_next() => {
                            drop(connection);
                            drop(stream);
                            return;
                        }
                    }
                }
            });
        }
    });
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
}

fn told<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn unary_client_streaming_and_server_streaming_calls_pass() {
    let bed = serving(spec()).await;
    for messages in [vec!["one"], vec!["one", "two", "three"], vec![]] {
        let sent: Vec<Bytes> = messages.iter().map(|text| message(text)).collect();
        let body =
            StreamBody::new(stream::iter(sent.clone().into_iter().map(|piece| Ok(Frame::data(piece)))));
        let response = connect(&bed).await.send_request(call(BodyExt::boxed_unsync(body))).await.unwrap();
        let whole = response.into_body().collect().await.unwrap();
        assert_eq!(told(whole.trailers().unwrap(), "grpc-status"), "0");
        assert_eq!(whole.to_bytes(), sent.concat());
    }
    bed.until_idle().await;
}

#[tokio::test]
async fn both_sides_of_a_call_talk_in_turn() {
    let bed = serving(spec()).await;
    let (say, body) = piecewise();
    say.send(message("0")).unwrap();
    let mut response = connect(&bed).await.send_request(call(body)).await.unwrap();
    for n in 0..5 {
        let heard = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(heard, message(&n.to_string()));
        say.send(message(&(n + 1).to_string())).unwrap();
    }
    drop(say);
    let rest = response.into_body().collect().await.unwrap();
    assert_eq!(told(rest.trailers().unwrap(), "grpc-status"), "0");
    bed.until_idle().await;
}

#[tokio::test]
async fn our_own_answers_are_statuses() {
    let hold = Hold { timeout: span("50ms"), ..Hold::default() };
    let bed = Bed::new(FunctionSpec { hold, ..spec() }).await;
    let mut sender = connect(&bed).await;
    let response = sender.send_request(call(full(""))).await.unwrap();
    let headers = response.headers();
    assert_eq!((response.status().as_u16(), told(headers, "content-type")), (200, "application/grpc"));
    assert_eq!((told(headers, "grpc-status"), told(headers, "pilotlight-reason")), ("14", "hold-timeout"));
    assert!(told(headers, "grpc-message").starts_with("no slot became free"), "{headers:?}");
    assert_eq!(told(headers, "grpc-retry-pushback-ms"), "1000");
    assert!(http_body::Body::is_end_stream(response.body()), "nothing but a head");

    let mut unknown = call(full(""));
    *unknown.uri_mut() = "http://nobody.demo/service/Method".parse().unwrap();
    let response = sender.send_request(unknown).await.unwrap();
    assert_eq!(told(response.headers(), "grpc-status"), "12");
}

#[tokio::test]
async fn a_held_call_ends_with_its_deadline() {
    let bed = Bed::new(spec()).await;
    let response = connect(&bed).await.send_request(unary("100m")).await.unwrap();
    let headers = response.headers();
    assert_eq!(
        (told(headers, "grpc-status"), told(headers, "pilotlight-reason")),
        ("4", "deadline-exceeded")
    );
    bed.until("nobody is held", |report| report.held == 0).await;
}

#[tokio::test]
async fn a_pod_is_told_how_much_of_the_time_is_left() {
    async fn tell(request: Request<Incoming>) -> Response<Body> {
        let left = request.headers()["grpc-timeout"].clone();
        Response::builder().header("left", left).body(full("")).unwrap()
    }
    let bed = Bed::new(spec()).await;
    let mut sender = connect(&bed).await;
    let pod = Pod::serving_http2("a", tell).await;
    let start = async {
        bed.until("one is held", |report| report.held == 1).await;
        bed.see(&pod);
    };
    let (held, ()) = tokio::join!(sender.send_request(unary("20S")), start);
    let left = told(held.unwrap().headers(), "left").to_owned();
    let micros: u64 = left.strip_suffix('u').expect(&left).parse().unwrap();
    assert!((1..20_000_000).contains(&micros), "{left}");
    let warm = sender.send_request(unary("20S")).await.unwrap();
    assert_eq!(told(warm.headers(), "left"), "20S", "as it was sent");
}

#[tokio::test]
async fn a_call_that_takes_too_long_ends_with_a_status() {
    async fn never(request: Request<Incoming>) -> Response<Body> {
        drop(request);
        std::future::pending().await
    }
    async fn silent(_: Request<Incoming>) -> Response<Body> {
        let frames = stream::iter([Ok(Frame::data(message("one")))]);
        let frames = futures_util::StreamExt::chain(frames, stream::pending());
        Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
    }
    let timeouts = Timeouts { first_byte: span("10s"), idle: span("300ms"), total: span("20s") };
    let bed = Bed::new(FunctionSpec { timeouts, ..spec() }).await;
    bed.see(&Pod::serving_http2("a", silent).await);
    let mut sender = connect(&bed).await;
    for (request, status, why) in
        [(call(full("")), "14", "timeouts.idle"), (unary("100m"), "4", "grpc-timeout")]
    {
        let response = sender.send_request(request).await.unwrap();
        let whole = response.into_body().collect().await.unwrap();
        let trailers = whole.trailers().unwrap();
        assert_eq!(told(trailers, "grpc-status"), status);
        assert!(told(trailers, "grpc-message").contains(why), "{trailers:?}");
    }
    bed.until_idle().await;

    let bed = Bed::new(spec()).await;
    bed.see(&Pod::serving_http2("a", never).await);
    let response = connect(&bed).await.send_request(unary("200m")).await.unwrap();
    let headers = response.headers();
    assert_eq!(
        (told(headers, "grpc-status"), told(headers, "pilotlight-reason")),
        ("4", "deadline-exceeded")
    );
    bed.until_idle().await;
}

#[tokio::test]
async fn a_pods_reset_reaches_the_client_with_its_code() {
    let bed = Bed::new(spec()).await;
    bare_pod(&bed, |_, mut respond| async move {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(message("one"), false).unwrap();
        // The data goes out first: what is reset at once is never sent.
        tokio::time::sleep(Duration::from_millis(50)).await;
        body.send_reset(Reason::ENHANCE_YOUR_CALM);
        std::future::pending().await
    })
    .await;
    let response = connect(&bed).await.send_request(call(full(""))).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().downcast_ref::<h2::Error>().unwrap();
    assert_eq!(source.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    bed.until_idle().await;
}

#[tokio::test]
async fn a_pod_whose_connection_breaks_is_unavailable() {
    let bed = Bed::new(spec()).await;
    bare_pod(&bed, |_, mut respond| async move {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(message("one"), false).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        body
    })
    .await;
    let response = connect(&bed).await.send_request(call(full(""))).await.unwrap();
    let whole = response.into_body().collect().await.unwrap();
    assert_eq!(told(whole.trailers().unwrap(), "grpc-status"), "14");
    assert_eq!(whole.to_bytes(), message("one"));
    bed.until_idle().await;
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_pod() {
    let bed = Bed::new(spec()).await;
    bare_pod(&bed, |mut request, mut respond| async move {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(message("one"), false).unwrap();
        let reset = poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
        assert_eq!(reset, Reason::CANCEL);
        // Both directions end.
        while let Some(Ok(_)) = request.data().await {}
        CANCELLED.notify_one();
        body
    })
    .await;
    static CANCELLED: tokio::sync::Notify = tokio::sync::Notify::const_new();
    let (say, body) = piecewise();
    say.send(message("0")).unwrap();
    let mut response = connect(&bed).await.send_request(call(body)).await.unwrap();
    assert!(response.body_mut().frame().await.unwrap().is_ok());
    assert_eq!(bed.report().in_flight, 1);
    drop((response, say));
    tokio::time::timeout(PATIENCE, CANCELLED.notified()).await.expect("the pod hears of it");
    bed.until_idle().await;
}

#[tokio::test]
async fn a_call_cancelled_while_it_is_held_leaves_the_queue() {
    let bed = Bed::new(spec()).await;
    let mut sender = connect(&bed).await;
    {
        let held = sender.send_request(call(full("")));
        tokio::select! {
            _ = held => unreachable!("there is no pod"),
            () = bed.until("one is held", |report| report.held == 1) => {}
        }
    }
    bed.until("nobody is held", |report| report.held == 0).await;
}

#[tokio::test]
async fn a_pod_that_ends_a_call_early_stops_its_client() {
    let bed = Bed::new(spec()).await;
    bare_pod(&bed, |request, mut respond| async move {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("3"));
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_trailers(trailers).unwrap();
        // It never reads what the client goes on to send.
        std::future::pending::<()>().await;
        drop(request);
        body
    })
    .await;
    let stream = TcpStream::connect(bed.addr).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = call(full("")).map(|_| ());
    let (response, mut upload) = sender.ready().await.unwrap().send_request(request, false).unwrap();
    upload.send_data(message("0"), false).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert!(body.data().await.is_none());
    assert_eq!(told(&body.trailers().await.unwrap().unwrap(), "grpc-status"), "3");
    let reset = tokio::time::timeout(PATIENCE, poll_fn(|cx| upload.poll_reset(cx))).await.unwrap();
    assert_eq!(reset.unwrap(), Reason::NO_ERROR, "RFC 9113, section 8.1: stop, all is well");
    bed.until_idle().await;
}
