//! Every kind of request from zero: held first, then served whole.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use pilotlight_crds::{FunctionSpec, Protocol};

use super::{
    Bed,
    bed::{Body, PATIENCE, Pod, full},
    grpc, http2,
};

/// One kind: what its pods speak, and the exchange.
struct Kind {
    name: &'static str,
    pods: Protocol,
    /// The response's head, body and trailers.
    exchange: for<'a> fn(&'a Bed) -> BoxFuture<'a, Told>,
    body: &'static str,
    trailer: Option<&'static str>,
}

struct Told {
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

async fn told(response: Response<Incoming>) -> Told {
    let (parts, body) = response.into_parts();
    let whole = body.collect().await.unwrap();
    let trailers = whole.trailers().cloned();
    Told { headers: parts.headers, body: whole.to_bytes(), trailers }
}

async fn http1(bed: &Bed, request: Request<Body>) -> Told {
    told(bed.connect().await.send_request(request).await.unwrap()).await
}

async fn http2(bed: &Bed, request: Request<Body>) -> Told {
    told(http2::connect(bed).await.send_request(request).await.unwrap()).await
}

fn builder(method: &str) -> http::request::Builder {
    Request::builder().method(method).uri("http://hello.demo/").header("host", "hello.demo")
}

fn trailer() -> HeaderMap {
    HeaderMap::from_iter([("checksum".parse().unwrap(), HeaderValue::from_static("sent"))])
}

/// A body of unknown length with a trailer.
fn pieces() -> Body {
    let frames =
        [Ok(Frame::data("he".into())), Ok(Frame::data("llo".into())), Ok(Frame::trailers(trailer()))];
    BodyExt::boxed_unsync(StreamBody::new(stream::iter(frames)))
}

/// Sends back what it is sent, trailers included; to a GET, three events one after the other.
async fn mirror(request: Request<Incoming>) -> Response<Body> {
    let response = Response::builder().header("trailer", "checksum");
    if request.method() == "GET" {
        let events = stream::iter(["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"]).then(|event| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(Frame::data(Bytes::from_static(event.as_bytes())))
        });
        let body = BodyExt::boxed_unsync(StreamBody::new(events));
        return response.header("content-type", "text/event-stream").body(body).unwrap();
    }
    let frames = stream::unfold(request.into_body(), |mut body| async move {
        body.frame().await.and_then(Result::ok).map(|frame| (Ok(frame), body))
    });
    response.body(BodyExt::boxed_unsync(StreamBody::new(frames))).unwrap()
}

const EVENTS: &str = "data: 1\n\ndata: 2\n\ndata: 3\n\n";

const KINDS: [Kind; 9] = [
    Kind {
        name: "events",
        pods: Protocol::Http1,
        exchange: |bed| Box::pin(http1(bed, builder("GET").body(full("")).unwrap())),
        body: EVENTS,
        trailer: None,
    },
    Kind {
        name: "a head",
        pods: Protocol::Http1,
        exchange: |bed| Box::pin(http1(bed, builder("HEAD").body(full("")).unwrap())),
        body: "",
        trailer: None,
    },
    Kind {
        name: "an upload of known length",
        pods: Protocol::Http1,
        exchange: |bed| Box::pin(http1(bed, builder("POST").body(full("hello")).unwrap())),
        body: "hello",
        trailer: None,
    },
    Kind {
        name: "a chunked upload with trailers both ways",
        pods: Protocol::Http1,
        exchange: |bed| {
            let request = builder("PUT").header("trailer", "checksum").header("te", "trailers");
            Box::pin(http1(bed, request.body(pieces()).unwrap()))
        },
        body: "hello",
        trailer: Some("checksum"),
    },
    Kind {
        name: "an upload that waits to be asked for",
        pods: Protocol::Http1,
        exchange: |bed| {
            Box::pin(http1(
                bed,
                builder("POST").header("expect", "100-continue").body(full("hello")).unwrap(),
            ))
        },
        body: "hello",
        trailer: None,
    },
    Kind {
        name: "HTTP/2 to a pod of HTTP/1",
        pods: Protocol::Http1,
        exchange: |bed| {
            let request = builder("POST").header("trailer", "checksum").header("te", "trailers");
            Box::pin(http2(bed, request.body(pieces()).unwrap()))
        },
        body: "hello",
        trailer: Some("checksum"),
    },
    Kind {
        name: "HTTP/2 all the way",
        pods: Protocol::H2c,
        exchange: |bed| {
            Box::pin(http2(bed, builder("POST").header("te", "trailers").body(pieces()).unwrap()))
        },
        body: "hello",
        trailer: Some("checksum"),
    },
    Kind {
        name: "HTTP/1 to a pod of HTTP/2",
        pods: Protocol::H2c,
        exchange: |bed| Box::pin(http1(bed, builder("POST").body(full("hello")).unwrap())),
        body: "hello",
        trailer: None,
    },
    Kind {
        name: "a gRPC call",
        pods: Protocol::H2c,
        exchange: |bed| {
            let request = builder("POST").header("te", "trailers").header("content-type", "application/grpc");
            Box::pin(http2(bed, request.body(full("\0\0\0\0\u{1}x")).unwrap()))
        },
        body: "\0\0\0\0\u{1}x",
        trailer: Some("grpc-status"),
    },
];

#[tokio::test]
async fn every_kind_of_request_is_held_and_then_served_whole() {
    for Kind { name, pods, exchange, body, trailer } in KINDS {
        let bed = Bed::new(FunctionSpec { protocol: pods, ..FunctionSpec::from_image("x") }).await;
        let pod = match (pods, trailer) {
            (Protocol::Http1, _) => Pod::serving("a", mirror).await,
            (Protocol::H2c, Some("grpc-status")) => Pod::serving_http2("a", grpc::echo).await,
            (Protocol::H2c, _) => Pod::serving_http2("a", mirror).await,
        };
        let start = async {
            bed.until(name, |report| report.held == 1).await;
            bed.see(&pod);
        };
        let both = async { tokio::join!(exchange(&bed), start) };
        let (told, ()) = tokio::time::timeout(PATIENCE, both).await.expect(name);
        assert_eq!(told.headers["pilotlight-cold-start"], "true", "{name}");
        assert_eq!(told.body, body, "{name}");
        let got =
            told.trailers.as_ref().and_then(|trailers| trailers.keys().next()).map(http::HeaderName::as_str);
        assert_eq!(got, trailer, "{name}");
        bed.until(name, |report| report.in_flight == 0).await;
    }
}

#[tokio::test]
async fn events_come_one_by_one() {
    async fn ticker(_: Request<Incoming>) -> Response<Body> {
        let frames =
            stream::iter([Ok(Frame::data(Bytes::from_static(b"data: 1\n\n")))]).chain(stream::pending());
        let body = BodyExt::boxed_unsync(StreamBody::new(frames));
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    }
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    bed.see(&Pod::serving("a", ticker).await);
    let mut response = bed.connect().await.send_request(super::bed::get("/")).await.unwrap();
    let first =
        tokio::time::timeout(PATIENCE, response.body_mut().frame()).await.expect("it is not kept back");
    assert_eq!(first.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
}
