//! Pods that take requests and do not answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join_all};
use http::{Request, Response};
use hyper::body::Incoming;
use pilotlight_crds::{FunctionSpec, Protocol, Timeouts};

use super::{
    Bed,
    bed::{Body, Pod, full, get},
};

/// Whether a pod hangs.
type Switch = Arc<AtomicBool>;

fn spec(first_byte: &str) -> FunctionSpec {
    let timeouts = Timeouts { first_byte: first_byte.parse().unwrap(), ..Timeouts::default() };
    FunctionSpec { concurrency: 10, timeouts, ..FunctionSpec::from_image("x") }
}

/// Answers with a name, unless it hangs.
fn named(
    name: &'static str,
    hangs: &Switch,
) -> impl Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Clone + use<> {
    let hangs = Arc::clone(hangs);
    move |request| {
        let hangs = hangs.load(Ordering::Relaxed) || request.uri().path() == "/never";
        Box::pin(async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Response::new(full(name))
        })
    }
}

/// A pod `a` that hangs, and one `b` that does not.
async fn two(bed: &Bed) -> (Switch, [Pod; 2]) {
    let hangs = Switch::new(true.into());
    let pods = [
        Pod::serving("a", named("a", &hangs)).await,
        Pod::serving("b", named("b", &Switch::default())).await,
    ];
    for (pod, ready) in pods.iter().zip(1..) {
        bed.see(pod);
        // One after the other: the first of equals gets the first request.
        bed.until("the pod is used", |report| report.ready == ready).await;
    }
    (hangs, pods)
}

async fn until_heard(bed: &Bed, ready: u32) {
    bed.until("no pod is set aside", |report| (report.set_aside, report.ready) == (0, ready)).await;
}

#[tokio::test]
async fn a_pod_that_does_not_answer_is_set_aside_until_it_does() {
    let bed = Bed::new(spec("200ms")).await;
    let (hangs, pods) = two(&bed).await;
    let first = bed.get("/").await;
    assert_eq!((first.status().as_u16(), &first.body()[..]), (200, &b"b"[..]), "it was repeated");
    assert!(pods[0].asked() > 0);
    assert_eq!((bed.report().set_aside, bed.report().ready), (1, 1));
    assert_eq!(bed.function.metrics.set_aside.get(), 1);
    assert_eq!(bed.function.metrics.retries.get(), 1);
    let quick = async { join_all((0..8).map(|_| bed.get("/"))).await };
    for response in tokio::time::timeout(Duration::from_secs(10), quick).await.unwrap() {
        assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"b"[..]));
        let timing = response.headers()["server-timing"].to_str().unwrap();
        assert!(timing.contains("first-byte"), "{timing}");
    }
    assert_eq!(bed.function.metrics.retries.get(), 1, "none of them was sent to the silent pod");
    hangs.store(false, Ordering::Relaxed);
    until_heard(&bed, 2).await;
    assert_eq!(&bed.get("/").await.body()[..], b"a");
    assert_eq!(bed.function.metrics.set_aside.get(), 0);
}

#[tokio::test]
async fn what_must_not_be_repeated_is_told_and_the_next_goes_elsewhere() {
    let bed = Bed::new(spec("200ms")).await;
    let (_hangs, pods) = two(&bed).await;
    let post = || {
        let mut request = get("/");
        *request.method_mut() = http::Method::POST;
        request
    };
    let lost = bed.ask(post()).await;
    assert_eq!(lost.status(), 504);
    let problem: serde_json::Value = serde_json::from_slice(lost.body()).unwrap();
    assert_eq!(
        (&problem["reason"], &problem["reached_pod"]),
        (&"first-byte-timeout".into(), &true.into()),
        "{problem}"
    );
    for _ in 0..5 {
        assert_eq!(&bed.ask(post()).await.body()[..], b"b");
    }
    assert!(pods[0].asked() > 1, "it was asked for a sign of life");
}

#[tokio::test]
async fn the_only_pod_is_used_though_it_is_silent() {
    let bed = Bed::new(spec("200ms")).await;
    let hangs = Switch::new(true.into());
    bed.see(&Pod::serving("a", named("a", &hangs)).await);
    for _ in 0..2 {
        let began = Instant::now();
        let response = bed.get("/").await;
        assert_eq!(response.headers()["pilotlight-reason"], "first-byte-timeout");
        assert!(began.elapsed() < Duration::from_secs(10), "it did not wait for another");
        assert_eq!((bed.report().set_aside, bed.report().ready), (1, 1));
    }
    hangs.store(false, Ordering::Relaxed);
    assert_eq!(bed.get("/").await.status(), 200);
    until_heard(&bed, 1).await;
}

#[tokio::test]
async fn a_pod_is_doubted_as_well_when_its_clients_give_up() {
    let bed = Bed::new(spec("30s")).await;
    two(&bed).await;
    for (patience, doubted) in [(50, 0), (1_100, 1)] {
        let asked = tokio::time::timeout(Duration::from_millis(patience), bed.get("/")).await;
        assert!(asked.is_err(), "{:?}", asked.map(|response| response.into_body()));
        bed.until_idle().await;
        assert_eq!(bed.report().set_aside, doubted, "after {patience} ms");
    }
    assert_eq!(&bed.get("/").await.body()[..], b"b");
}

#[tokio::test]
async fn a_pod_that_answers_others_is_only_slow() {
    let bed = Bed::new(spec("300ms")).await;
    let (hangs, _pods) = two(&bed).await;
    hangs.store(false, Ordering::Relaxed);
    let (slow, others) = tokio::join!(bed.get("/never"), async {
        bed.until("one is in flight", |report| report.in_flight == 1).await;
        join_all((0..6).map(|_| bed.get("/"))).await
    });
    for pod in ["a", "b"] {
        assert!(others.iter().any(|response| response.body()[..] == *pod.as_bytes()), "both serve");
    }
    assert_eq!(slow.status(), 504);
    assert_eq!(bed.report().set_aside, 0);
}

#[tokio::test]
async fn any_answer_clears_a_pod() {
    let bed = Bed::new(spec("400ms")).await;
    // Only `/late` is ever answered, and no sign of life is given.
    let only_late = |request: Request<Incoming>| async move {
        match request.uri().path() {
            "/late" => tokio::time::sleep(Duration::from_millis(300)).await,
            _ => std::future::pending().await,
        }
        Response::new(full("late"))
    };
    bed.see(&Pod::serving("a", only_late).await);
    let late = async {
        bed.until("one is in flight", |report| report.in_flight == 1).await;
        let since = Instant::now();
        bed.until("a while has passed", |_| since.elapsed() > Duration::from_millis(200)).await;
        let silent = bed.until("it is set aside", |report| report.set_aside == 1);
        tokio::join!(bed.get("/late"), silent).0
    };
    let (never, late) = tokio::join!(bed.get("/never"), late);
    assert_eq!((never.status().as_u16(), late.status().as_u16()), (504, 200));
    until_heard(&bed, 1).await;
}

#[tokio::test]
async fn a_silent_pod_of_http2_is_asked_in_its_own_way() {
    let bed = Bed::new(FunctionSpec { protocol: Protocol::H2c, ..spec("200ms") }).await;
    let hangs = Switch::new(true.into());
    bed.see(&Pod::serving_http2("a", named("a", &hangs)).await);
    // The clock is that of the first byte as soon as the body has been sent.
    let (mut with_body, began) = (get("/"), Instant::now());
    *with_body.body_mut() = full("a body");
    assert_eq!(bed.ask(with_body).await.status(), 504);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(bed.report().set_aside, 1);
    hangs.store(false, Ordering::Relaxed);
    until_heard(&bed, 1).await;
}

#[tokio::test]
async fn a_silent_pod_with_a_probe_is_back_when_that_says_so() {
    let probe = Some(pilotlight_crds::Probe { path: "/ready".into() });
    let bed = Bed::new(FunctionSpec { probe, ..spec("200ms") }).await;
    let hangs = Switch::default();
    bed.see(&Pod::serving("a", named("a", &hangs)).await);
    bed.until("it is used", |report| report.ready == 1).await;
    hangs.store(true, Ordering::Relaxed);
    assert_eq!(bed.get("/").await.status(), 504);
    assert_eq!(bed.report().set_aside, 1);
    hangs.store(false, Ordering::Relaxed);
    until_heard(&bed, 1).await;
}
