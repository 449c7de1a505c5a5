//! Requests that arrive before there is a pod to answer them.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pilotlight_crds::{FunctionSpec, Hold, PodTrouble, Span};
use tokio_util::sync::CancellationToken;

use super::{
    Bed,
    bed::{PATIENCE, Pod, after},
};

fn spec(concurrency: u32) -> FunctionSpec {
    FunctionSpec { concurrency, ..FunctionSpec::from_image("x") }
}

#[tokio::test]
async fn requests_from_zero_are_answered_as_soon_as_the_port_is() {
    let bed = Bed::new(spec(100)).await;
    let mut pod = Pod::deaf("a").await;
    let requests = join_all((0..50).map(|_| bed.get("/")));
    let start = async {
        bed.until("50 are held", |report| report.held == 50).await;
        bed.see(&pod);
        pod.listen(after(Duration::ZERO)).await;
    };
    let (responses, ()) = tokio::join!(requests, start);
    for response in &responses {
        assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"hello"[..]));
        assert_eq!(response.headers()["pilotlight-cold-start"], "true");
    }
    let cold = bed.report().cold_start.expect("a cold start was recorded");
    assert_eq!(cold.pod, "a");
    let phases = cold.milliseconds;
    assert!(
        phases.address_known <= phases.port_answers && phases.port_answers <= phases.first_byte,
        "{phases:?}"
    );
    bed.until("all is quiet", |report| report.in_flight + report.held == 0).await;
}

#[tokio::test]
async fn a_hard_limit_is_never_exceeded_and_slots_are_reused() {
    let bed = Bed::new(spec(1)).await;
    let pods = [
        Pod::serving("a", after(Duration::from_millis(5))).await,
        Pod::serving("b", after(Duration::from_millis(5))).await,
    ];
    let responses = async {
        let requests = join_all((0..40).map(|_| bed.get("/")));
        pods.iter().for_each(|pod| bed.see(pod));
        requests.await
    };
    let watch = async {
        loop {
            assert!(bed.report().in_flight <= 2, "{:?}", bed.report());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let responses = tokio::select! { responses = responses => responses, () = watch => unreachable!() };
    assert!(responses.iter().all(|response| response.status() == 200));
    assert_eq!(pods[0].asked() + pods[1].asked(), 40);
    assert!(
        pods[0].asked() > 5 && pods[1].asked() > 5,
        "both serve: {} {}",
        pods[0].asked(),
        pods[1].asked()
    );
}

#[tokio::test]
async fn more_than_may_wait_are_told_so() {
    let hold = Hold { requests: 2, ..Hold::default() };
    let bed = Bed::new(FunctionSpec { hold, ..spec(1) }).await;
    let waiting = async { tokio::join!(bed.get("/"), bed.get("/")) };
    let third = async {
        bed.until("two are held", |report| report.held == 2).await;
        let refused = bed.get("/").await;
        bed.see(&Pod::serving("a", after(Duration::ZERO)).await);
        refused
    };
    let ((first, second), refused) = tokio::join!(waiting, third);
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["pilotlight-reason"], "hold-requests-exceeded");
    assert_eq!(refused.headers()["retry-after"], "1");
}

#[tokio::test]
async fn who_waits_too_long_is_told_why() {
    let hold = Hold { timeout: "200ms".parse::<Span>().unwrap(), ..Hold::default() };
    let bed = Bed::new(FunctionSpec { hold, ..spec(1) }).await;
    let mut pod = Pod::deaf("a").await;
    pod.observed.address = None;
    pod.observed.trouble =
        Some(PodTrouble { reason: "ErrImagePull".into(), message: "no such image".into() });
    bed.see(&pod);
    let response = bed.get("/").await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["pilotlight-reason"]),
        (504, &"hold-timeout".parse().unwrap())
    );
    let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("ErrImagePull: no such image"), "{problem}");
    assert_eq!(bed.report().held, 0);
}

#[tokio::test]
async fn trouble_of_a_revision_that_is_only_tried_is_nothing_to_those_who_wait() {
    let bed = Bed::new(spec(1)).await;
    let mut tried = Pod::deaf("new").await;
    tried.observed.revision = "r2".into();
    tried.observed.trouble = Some(PodTrouble { reason: "ErrImagePull".into(), message: String::new() });
    bed.see(&tried);
    let serving = async {
        bed.until("one is held", |report| report.held == 1).await;
        bed.function.give_up_on_trouble(Instant::now() + Duration::from_secs(60));
        bed.see(&Pod::serving("a", after(Duration::ZERO)).await);
    };
    let (response, ()) = tokio::join!(bed.get("/"), serving);
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn lasting_trouble_of_the_revision_that_serves_is_told_to_those_who_wait() {
    let bed = Bed::new(spec(1)).await;
    let mut pod = Pod::deaf("a").await;
    pod.observed.trouble = Some(PodTrouble { reason: "ErrImagePull".into(), message: String::new() });
    bed.see(&pod);
    let give_up = async {
        bed.until("one is held", |report| report.held == 1).await;
        bed.function.give_up_on_trouble(Instant::now() + Duration::from_secs(60));
    };
    let (response, ()) = tokio::join!(bed.get("/"), give_up);
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["pilotlight-reason"], "cannot-start");
}

#[tokio::test]
async fn under_lasting_overload_newer_requests_go_first_and_old_ones_are_told() {
    let hold = Hold { timeout: "3s".parse::<Span>().unwrap(), ..Hold::default() };
    let bed = Bed::new(FunctionSpec { hold, ..spec(1) }).await;
    bed.see(&Pod::serving("a", after(Duration::from_millis(5))).await);
    // Each asks again as soon as it is answered, until one is given up: there are always some fifty who wait.
    let told = CancellationToken::new();
    let client = || async {
        while !told.is_cancelled() {
            let response = bed.get("/").await;
            if response.status() != 200 {
                told.cancel();
                return Some(response);
            }
        }
        None
    };
    let answers = tokio::time::timeout(PATIENCE, join_all((0..50).map(|_| client()))).await.unwrap();
    let refused: Vec<_> = answers.into_iter().flatten().collect();
    for response in &refused {
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (503, &"1".parse().unwrap())
        );
        assert_eq!(response.headers()["pilotlight-reason"], "overloaded");
    }
    assert!(bed.function.metrics.overload_expired.get() >= refused.len() as u64);
    bed.until("nobody is held", |report| report.in_flight + report.held == 0).await;
    assert_eq!(bed.function.metrics.overloaded.get(), 0);
}

#[tokio::test]
async fn who_leaves_leaves_the_queue() {
    let bed = Bed::new(spec(1)).await;
    let mut connections = Vec::new();
    for _ in 0..10 {
        let mut sender = bed.connect().await;
        connections
            .push(tokio::spawn(async move { sender.send_request(super::bed::get("/")).await.map(drop) }));
    }
    bed.until("ten are held", |report| report.held == 10).await;
    // Whoever ends his side at once is taken to wait for the answer.
    let since = Instant::now();
    bed.until("they have waited for a while", |_| since.elapsed() > Duration::from_millis(40)).await;
    connections.iter().for_each(tokio::task::JoinHandle::abort);
    bed.until("nobody is held", |report| report.held == 0).await;
}

#[tokio::test]
async fn a_pod_that_refuses_is_set_aside_and_comes_back() {
    let bed = Bed::new(spec(10)).await;
    let mut first = Pod::serving("a", after(Duration::ZERO)).await;
    let second = Pod::serving("b", after(Duration::ZERO)).await;
    bed.see(&first);
    bed.until("the first pod answers", |report| report.ready == 1).await;
    assert_eq!(bed.get("/").await.status(), 200);
    first.close();
    let (response, ()) = tokio::join!(bed.get("/"), async {
        bed.until("the first pod is set aside", |report| report.ready == 0).await;
        bed.see(&second);
    });
    assert_eq!((response.status().as_u16(), second.asked()), (200, 1));
    first.listen(after(Duration::ZERO)).await;
    bed.until("the first pod is back", |report| report.ready == 2).await;
}

#[tokio::test]
async fn a_pod_that_is_ending_gets_nothing_new() {
    let bed = Bed::new(spec(10)).await;
    let mut first = Pod::serving("a", after(Duration::from_millis(300))).await;
    let second = Pod::serving("b", after(Duration::ZERO)).await;
    bed.see(&first);
    bed.until("the first pod answers", |report| report.ready == 1).await;
    let (slow, quick) = tokio::join!(bed.get("/"), async {
        bed.until("one is in flight", |report| report.in_flight == 1).await;
        first.observed.ending = true;
        bed.see(&first);
        bed.see(&second);
        bed.get("/").await
    });
    assert_eq!((slow.status().as_u16(), quick.status().as_u16()), (200, 200), "what was in flight ends well");
    assert_eq!((first.asked(), second.asked()), (1, 1));
}
