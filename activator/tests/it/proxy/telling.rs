//! What a function is told of a request, and a client of its answer.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use pilotlight_crds::{FunctionSpec, Hold, Span};

use super::{
    Bed,
    bed::{Body, Pod, after, full},
};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Answers with the request's header lines.
async fn mirror(request: Request<Incoming>) -> Response<Body> {
    let lines: Vec<String> = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    Response::builder().header("server-timing", "db;dur=7").body(full(&lines.join("\n"))).unwrap()
}

async fn ask(bed: &Bed, headers: &[(&str, &str)]) -> Response<Bytes> {
    let mut request = super::bed::get("/");
    for (name, value) in headers {
        request.headers_mut().append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    bed.ask(request).await
}

fn server_timing(headers: &HeaderMap) -> Vec<&str> {
    headers.get_all("server-timing").iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_function_is_told_where_a_request_comes_from() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    bed.see(&Pod::serving("a", mirror).await);
    let forged = [("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "1.1.1.1"), ("via", "1.1 cache")];
    let told = ask(&bed, &forged).await;
    let told = std::str::from_utf8(told.body()).unwrap();
    for line in [
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: hello.demo.example.org",
        "x-forwarded-proto: http",
        "forwarded: for=127.0.0.1;host=\"hello.demo.example.org\";proto=http",
        "via: 1.1 cache\nvia: 1.1 pilotlight",
    ] {
        assert!(told.contains(line), "{line} in {told}");
    }
    assert!(!told.contains("1.1.1.1"), "{told}");
}

#[tokio::test]
async fn a_trace_is_kept_or_made() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    bed.see(&Pod::serving("a", mirror).await);
    let kept = ask(&bed, &[("traceparent", TRACE), ("tracestate", "a=1")]).await;
    let kept = std::str::from_utf8(kept.body()).unwrap();
    assert!(kept.contains(&format!("traceparent: {TRACE}")) && kept.contains("tracestate: a=1"), "{kept}");
    let made = ask(&bed, &[("traceparent", "00-0-0-0"), ("tracestate", "a=1")]).await;
    let made = std::str::from_utf8(made.body()).unwrap();
    assert!(made.contains("traceparent: 00-") && !made.contains("00-0-0-0"), "{made}");
    assert!(!made.contains("tracestate"), "{made}");
}

#[tokio::test]
async fn our_own_answer_names_the_trace() {
    let hold = Hold { timeout: "50ms".parse::<Span>().unwrap(), ..Hold::default() };
    let bed = Bed::new(FunctionSpec { hold, ..FunctionSpec::from_image("x") }).await;
    let response = ask(&bed, &[("traceparent", TRACE)]).await;
    let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(problem["trace_id"], &TRACE[3..35], "{problem}");
}

#[tokio::test]
async fn a_client_is_told_where_its_time_went() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = Pod::serving("a", mirror).await;
    let start = async {
        bed.until("one is held", |report| report.held == 1).await;
        bed.see(&pod);
    };
    let (cold, ()) = tokio::join!(ask(&bed, &[]), start);
    let told = server_timing(cold.headers());
    assert_eq!((told.len(), told[0]), (2, "db;dur=7"), "{told:?}");
    assert!(told[1].starts_with("hold;dur=") && told[1].contains("first-byte;dur="), "{told:?}");
    let warm = ask(&bed, &[]).await;
    let told = server_timing(warm.headers());
    assert!(told[1].starts_with("first-byte;dur="), "neither held nor connected anew: {told:?}");
}

#[tokio::test]
async fn the_time_to_the_first_byte_is_the_pods() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    bed.see(&Pod::serving("a", after(Duration::from_millis(60))).await);
    let response = ask(&bed, &[]).await;
    let told = server_timing(response.headers())[0];
    let (_, millis) = told.rsplit_once("first-byte;dur=").unwrap();
    assert!(millis.parse::<f64>().unwrap() >= 60.0, "{told}");
}
