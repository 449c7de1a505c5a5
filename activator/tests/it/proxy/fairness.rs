//! What one function's flood does to another function: to its answers, and to what the process may hold.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use pilotlight_activator::function::FunctionState;
use pilotlight_crds::{FunctionKey, FunctionSpec, Hold};
use tokio::{net::TcpStream, task::JoinSet};
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

/// Asks a function so often, in the background; how many were told that there is no room, so far.
fn ask(bed: &Bed, function: &'static str, times: usize, padding: usize) -> (JoinSet<u16>, Arc<AtomicU32>) {
    let full = Arc::new(AtomicU32::new(0));
    let mut asked = JoinSet::new();
    for _ in 0..times {
        let (addr, full) = (bed.addr, Arc::clone(&full));
        asked.spawn(async move {
            let stream = TokioIo::new(TcpStream::connect(addr).await.unwrap());
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let mut request = get_from(function, "/");
            request.headers_mut().insert("padding", "x".repeat(padding).parse().unwrap());
            let response = sender.send_request(request).await.unwrap();
            let reason = response.headers().get("pilotlight-reason");
            full.fetch_add(
                u32::from(reason.is_some_and(|reason| reason == "activator-full")),
                Ordering::Relaxed,
            );
            response.status().as_u16()
        });
    }
    (asked, full)
}

/// Floods one function and then another; how many of each the process holds.
async fn share(bed: &Bed, flooded: &Arc<FunctionState>, padding: usize) -> (u32, u32) {
    let settled = async |function: &FunctionState, full: &AtomicU32| {
        let held = || function.report().held;
        while held() + full.load(Ordering::Relaxed) < FLOOD {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        held()
    };
    let (mut first, full) = ask(bed, "flooded", FLOOD as usize, padding);
    let taken = settled(flooded, &full).await;
    let (mut second, full) = ask(bed, "hello", FLOOD as usize, padding);
    let left = settled(&bed.function, &full).await;
    assert_eq!(flooded.report().held, taken, "nobody was pushed out");
    let (quick, mut slow) = (
        Pod::serving("quick", after(Duration::ZERO)).await,
        Pod::serving("slow", after(Duration::ZERO)).await,
    );
    slow.observed.function = FunctionKey::new("demo", "flooded");
    [&quick, &slow].into_iter().for_each(|pod| bed.see(pod));
    for (asked, held) in [(&mut first, taken), (&mut second, left)] {
        let mut answered = 0;
        while let Some(status) = asked.join_next().await {
            answered += u32::from(status.unwrap() == 200);
        }
        assert_eq!(answered, held, "who was held was answered");
    }
    assert_eq!(bed.process.holding(), (0, 0));
    (taken, left)
}

const FLOOD: u32 = 60;

#[tokio::test]
async fn a_flood_takes_half_of_what_the_process_may_hold_and_the_next_half_of_the_rest() {
    // Requests; bytes of them; how much longer each is; what the first holds, and the second.
    for (requests, bytes, padding, expected) in
        [(40, u64::MAX, 1, (20, 10)), (1_000, 256 << 10, 8 << 10, (15, 8))]
    {
        let bed = Bed::holding(FunctionSpec::from_image("x"), requests, bytes).await;
        let flooded = bed.add("flooded", FunctionSpec::from_image("x"));
        assert_eq!(share(&bed, &flooded, padding).await, expected, "{requests} requests, {bytes} bytes");
    }
}
