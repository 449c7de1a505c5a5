//! Which pod served a session last.

use std::time::Duration;

use pilotlight_activator::session::SessionRef;

use super::{
    api::{cart, patient_store, serve, session_of},
    redis::Redis,
};

const TTL: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_session_is_tied_to_the_pod_that_served_it_last() {
    let redis = Redis::start().await;
    let (store, registry) = patient_store(&redis.url());
    let (one, two) =
        (SessionRef::new(cart(), session_of(&cart(), 1)), SessionRef::new(cart(), session_of(&cart(), 2)));
    assert_eq!(store.pod(&one, TTL).await.unwrap(), None);
    store.tie(&one, "pod-a", TTL).await.unwrap();
    store.tie(&two, "pod-b", TTL).await.unwrap();
    store.tie(&one, "pod-c", TTL).await.unwrap();
    assert_eq!(store.pod(&one, TTL).await.unwrap().as_deref(), Some("pod-c"));
    assert_eq!(store.pod(&two, TTL).await.unwrap().as_deref(), Some("pod-b"));

    let count = |operation: &str| {
        let family = registry.gather();
        let family = family.iter().find(|f| f.name() == "pilotlight_state_operations_total").unwrap();
        let has = |m: &&prometheus::proto::Metric| m.get_label().iter().any(|l| l.value() == operation);
        family.get_metric().iter().find(has).map(|m| m.get_counter().get_value())
    };
    assert_eq!((count("tie"), count("pod"), count("get")), (Some(3.0), Some(3.0), None));
}

#[tokio::test]
async fn a_request_lets_all_parts_of_its_session_live_on() {
    let redis = Redis::start().await;
    let (store, _registry) = patient_store(&redis.url());
    let function = serve(Some(store.clone()), 1024).await;
    let session = SessionRef::new(cart(), session_of(&cart(), 1));
    let key = |part: &str| format!("pilotlight:{{demo/cart/{}}}:{part}", session.id.random());
    store.touch(&session, TTL).await.unwrap();
    assert_eq!(redis.command::<Vec<String>>(&["KEYS", "*"]).await, Vec::<String>::new(), "nothing to keep");

    store.tie(&session, "pod-a", TTL).await.unwrap();
    function.send(hyper::Method::PUT, "?ttl=1h", &[], "x").await;
    for part in ["pod", "data"] {
        redis.command::<u64>(&["PEXPIRE", &key(part), "5000"]).await;
    }
    store.touch(&session, TTL).await.unwrap();
    let (pod, data): (u64, u64) =
        (redis.command(&["PTTL", &key("pod")]).await, redis.command(&["PTTL", &key("data")]).await);
    assert!(pod > 50_000 && pod <= 60_000, "the session's own ttl: {pod}");
    assert!(data > 3_590_000, "the data's own ttl: {data}");
}
