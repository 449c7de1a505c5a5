//! What one function's flood does to another function.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http_body_util::BodyExt;
use pilotlight_crds::{FunctionKey, FunctionSpec, Hold};
use tokio_util::sync::CancellationToken;

use super::{
    Bed,
    bed::{Pod, after, get, get_from},
};

const TRICKLE: usize = 200;

/// Asks `hello` for one thing after the other; how long the slowest but one in a hundred took.
async fn trickle(bed: &Bed) -> Duration {
    let mut sender = bed.connect().await;
    let mut took = Vec::new();
    for _ in 0..TRICKLE {
        let began = Instant::now();
        sender.ready().await.unwrap();
        let response = sender.send_request(get("/")).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("pilotlight-held-ms"), "it never waits for a slot");
        response.into_body().collect().await.unwrap();
        took.push(began.elapsed());
    }
    took.sort();
    took[TRICKLE * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_on_one_function_does_not_reach_another() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let hold = Hold { requests: 100, ..Hold::default() };
    let flooded = bed.add("flooded", FunctionSpec { concurrency: 1, hold, ..FunctionSpec::from_image("x") });
    let quick = Pod::serving("quick", after(Duration::ZERO)).await;
    let mut slow = Pod::serving("slow", after(Duration::from_millis(20))).await;
    slow.observed.function = FunctionKey::new("demo", "flooded");
    [&quick, &slow].into_iter().for_each(|pod| bed.see(pod));
    bed.until("the pod answers", |report| report.ready == 1).await;
    let alone = trickle(&bed).await;

    let (enough, refused) = (CancellationToken::new(), AtomicU32::new(0));
    let client = || async {
        let mut sender = bed.connect().await;
        while !enough.is_cancelled() {
            sender.ready().await.unwrap();
            let response = sender.send_request(get_from("flooded", "/")).await.unwrap();
            let full = response.status() == 503;
            response.into_body().collect().await.unwrap();
            if full {
                refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let flood = join_all((0..150).map(|_| client()));
    let measure = async {
        while flooded.report().held < 90 || refused.load(Ordering::Relaxed) < 100 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let flooded = trickle(&bed).await;
        enough.cancel();
        flooded
    };
    let (_, beside) = tokio::join!(flood, measure);
    // Generous: nothing of the flood's wait of two seconds, but both share the machine.
    assert!(beside < 20 * alone + Duration::from_millis(200), "{beside:?} beside a flood, {alone:?} alone");
}
