//! HTTP/2 in front and behind, as gRPC needs it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilotlight_crds::{FunctionSpec, Protocol};
use tokio::net::TcpStream;

use super::{
    Bed,
    bed::{Body, Pod, after, full},
};

pub(super) async fn connect(bed: &Bed) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = TcpStream::connect(bed.addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let stream = TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str, body: Body) -> Request<Body> {
    Request::post(format!("http://hello.demo{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap()
}

/// Answers as a gRPC server does: what was sent, and then the status as a trailer.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    assert_eq!(request.version(), Version::HTTP_2);
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(request.uri().authority().map(|a| a.as_str()), Some("hello.demo"));
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    Response::new(BodyExt::boxed_unsync(StreamBody::new(stream::iter(frames))))
}

#[tokio::test]
async fn a_call_from_zero_reaches_a_pod_that_speaks_http2_and_its_trailers_come_back() {
    let bed = Bed::new(FunctionSpec { protocol: Protocol::H2c, ..FunctionSpec::from_image("x") }).await;
    let mut sender = connect(&bed).await;
    let call = sender.send_request(request("/service/Method", full("message")));
    let start = async {
        bed.until("the call is held", |report| report.held == 1).await;
        bed.see(&Pod::serving_http2("a", echo).await);
        std::future::pending::<()>().await;
    };
    let response = tokio::select! { response = call => response.unwrap(), () = start => unreachable!() };
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["pilotlight-cold-start"], "true");
    let whole = response.into_body().collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(whole.to_bytes(), Bytes::from_static(b"message"));
    bed.until_idle().await;
}

#[tokio::test]
async fn many_calls_share_connections_on_both_sides() {
    let bed = Bed::new(FunctionSpec { protocol: Protocol::H2c, ..FunctionSpec::from_image("x") }).await;
    let pod = Pod::serving_http2("a", echo).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    let sender = connect(&bed).await;
    let calls = (0..50).map(|n| {
        let mut sender = sender.clone();
        async move {
            let response = sender.send_request(request("/", full(&format!("message {n}")))).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, format!("message {n}"));
        }
    });
    futures_util::future::join_all(calls).await;
    bed.until_idle().await;
}

#[tokio::test]
async fn http2_in_front_of_a_pod_that_speaks_http1() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", after(Duration::ZERO)).await;
    bed.see(&pod);
    let response = connect(&bed).await.send_request(request("/", full(""))).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}
