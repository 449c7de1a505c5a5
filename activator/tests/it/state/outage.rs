//! While Redis is not well: nobody waits, nothing is acknowledged that is not stored, and it is noticed soon
//! when Redis is back.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::StatusCode;
use pilotlight_activator::{
    metrics::StoreMetrics,
    session::{Condition, DEFAULT_BUDGET, SessionRef, Store, Unavailable},
};
use socket2::{Domain, Socket, Type};

use super::{
    api::{Answer, Function, cart, serve, session_of, store},
    redis::Redis,
};

/// What is promised is 150 ms; a test machine that does other things too gets a second.
const AT_MOST: Duration = Duration::from_secs(1);
/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// Within this a recovery is to be noticed.
const RECOVERY: Duration = Duration::from_secs(2);

async fn started() -> (Redis, Function) {
    let redis = Redis::start().await;
    let function = serve(Some(store(&redis.url())), 1024).await;
    function.stored("before", PATIENCE).await;
    (redis, function)
}

fn assert_unavailable(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.reason().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "state-unavailable")
    );
    assert_eq!(answer.header("retry-after"), "1");
    assert!(answer.took < AT_MOST, "{:?}", answer.took);
}

/// The longest of many answers while Redis is away.
async fn slowest_refusal(function: &Function, during: Duration) -> Duration {
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while began.elapsed() < during {
        let answer = function.put("lost").await;
        assert_unavailable(&answer);
        slowest = slowest.max(answer.took);
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_crash() {
    let (mut redis, cart) = started().await;
    let (mut acknowledged, began) = (0, Instant::now());
    let killed = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (cart, killed) = (cart.clone(), Arc::clone(&killed));
        async move {
            let mut number = 0_u64;
            loop {
                let answer = cart.put(&number.to_string()).await;
                if answer.status == StatusCode::NO_CONTENT {
                    number += 1;
                    continue;
                }
                assert_unavailable(&answer);
                // On a busy machine Redis may be too slow for one of them while it lives.
                if killed.load(Ordering::Relaxed) {
                    return (number, answer.took);
                }
            }
        }
    });
    while acknowledged < 50 {
        assert!(!writer.is_finished() && began.elapsed() < PATIENCE, "{acknowledged} were acknowledged");
        acknowledged = String::from_utf8_lossy(&cart.get().await.body).parse().unwrap_or(0);
    }
    killed.store(true, Ordering::Relaxed);
    redis.kill();
    let (unacknowledged, first) = writer.await.unwrap();
    let slowest = slowest_refusal(&cart, RECOVERY).await;
    redis.restart().await;
    let (read, recovery) = cart.recovered(RECOVERY).await;
    let stored: u64 = String::from_utf8_lossy(&read.body).parse().unwrap();
    // The write that met the crash may be stored or not; every one before it must be.
    assert!(stored == unacknowledged || stored + 1 == unacknowledged, "{stored} of {unacknowledged}");
    println!("killed: first 503 after {first:?}, then at most {slowest:?}; back after {recovery:?}");
}

#[tokio::test]
async fn a_frozen_redis_makes_nobody_wait_and_undoes_nothing_later() {
    let (redis, cart) = started().await;
    redis.freeze();
    // This one lies in Redis' socket from now on.
    let first = cart.put("late").await;
    assert_unavailable(&first);
    let slowest = slowest_refusal(&cart, RECOVERY).await;
    redis.thaw();
    let (read, recovery) = cart.recovered(RECOVERY).await;
    assert_eq!(read.body, "before", "Redis dropped the write that came out of its socket too late");
    cart.stored("after", RECOVERY).await;
    println!("frozen: first 503 after {:?}, then at most {slowest:?}; back after {recovery:?}", first.took);
}

#[tokio::test]
async fn an_idle_connection_that_died_is_noticed_before_it_is_needed() {
    let (redis, cart) = started().await;
    redis.freeze();
    // Two probes, and nobody asked in the meantime.
    tokio::time::sleep(Duration::from_millis(2200)).await;
    let answer = cart.get().await;
    assert_unavailable(&answer);
    println!("frozen while idle: 503 after {:?}", answer.took);
    redis.thaw();
    assert_eq!(cart.recovered(RECOVERY).await.0.body, "before");
}

#[tokio::test]
async fn a_start_without_redis_works_and_finds_it_later() {
    let mut redis = Redis::absent();
    let cart = serve(Some(store(&redis.url())), 1024).await;
    let slowest = slowest_refusal(&cart, Duration::from_secs(1)).await;
    redis.restart().await;
    let (answer, recovery) = cart.recovered(RECOVERY).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    println!("absent: 503 after at most {slowest:?}; found after {recovery:?}");
}

#[tokio::test]
async fn a_black_hole_makes_nobody_wait() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (full, _waiting) = deaf();
    for (what, port) in
        [("accepts and says nothing", silent.local_addr().unwrap().port()), ("drops packets", full)]
    {
        let cart = serve(Some(store(&format!("redis://127.0.0.1:{port}"))), 1024).await;
        let slowest = slowest_refusal(&cart, Duration::from_millis(1500)).await;
        println!("{what}: 503 after at most {slowest:?}");
    }
}

/// A port that answers no attempt to connect: its queue of connections is full. And what fills it.
fn deaf() -> (u16, (Socket, Vec<TcpStream>)) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
    let waiting: Vec<TcpStream> = std::iter::from_fn(connect).take(16).collect();
    assert!(waiting.len() < 16, "the queue never fills");
    (address.port(), (socket, waiting))
}

#[tokio::test]
async fn a_demoted_redis_is_not_written_to_for_ever() {
    let (redis, cart) = started().await;
    redis.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_unavailable(&cart.put("lost").await);
    redis.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    let (read, recovery) = cart.recovered(RECOVERY).await;
    assert_eq!(read.body, "before");
    println!("demoted: writable again after {recovery:?}");
}

#[tokio::test]
async fn a_full_redis_refuses_writers_and_serves_readers() {
    let (redis, cart) = started().await;
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_unavailable(&cart.put("more").await);
    let read = cart.get().await;
    assert_eq!((read.status, &read.body[..]), (StatusCode::OK, &b"before"[..]), "the breaker stays closed");
    assert_eq!(cart.delete().await.status, StatusCode::NO_CONTENT, "deleting makes room");
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    cart.stored("more", RECOVERY).await;
}

#[tokio::test]
async fn every_operation_says_that_redis_is_away() {
    let store = store(&Redis::absent().url());
    let session = SessionRef::new(cart(), session_of(&cart(), 1));
    let ttl = Duration::from_secs(60);
    let began = Instant::now();
    let failures: [Unavailable; 6] = [
        store.pod(&session, ttl).await.unwrap_err(),
        store.touch(&session, ttl).await.unwrap_err(),
        store.tie(&session, "pod-a", ttl).await.unwrap_err(),
        store.get(&session).await.unwrap_err(),
        store.put(&session, ("text/plain", b"x"), &Condition::Always, ttl).await.unwrap_err(),
        store.delete(&session, &Condition::Always).await.unwrap_err(),
    ];
    assert!(failures.iter().all(|failure| matches!(failure, Unavailable::Away(_))), "{failures:?}");
    assert!(began.elapsed() < AT_MOST, "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_without_repeating_it() {
    let metrics = || StoreMetrics::register(&prometheus::Registry::new()).unwrap();
    for url in ["", "host:6379", "http://host", "rediss://:hunter2@host:6379", "redis://:hunter2@host:port"] {
        let error = Store::open(url, DEFAULT_BUDGET, metrics()).unwrap_err();
        assert!(error.to_string().contains("redis://") && !error.to_string().contains("hunter2"), "{error}");
    }
}
