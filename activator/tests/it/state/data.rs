//! While all is well: reading, writing, conditions, limits, and whose data are whose.

use std::time::{Duration, Instant};

use hyper::{Method, Request, StatusCode};
use pilotlight_crds::{FunctionKey, Keys};
use serde_json::{Value, json};

use super::{
    api::{Function, SESSION_TTL, cart, keys, patient_store, serve, session_of},
    redis::Redis,
};

const LIMIT: usize = 64 << 10;

async fn started() -> (Redis, Function) {
    let redis = Redis::start().await;
    let function = serve(Some(patient_store(&redis.url()).0), LIMIT).await;
    (redis, function)
}

/// The Redis key of the data of `cart`'s first session.
fn data_key() -> String {
    format!("pilotlight:{{demo/cart/{}}}:data", session_of(&cart(), 1).random())
}

#[tokio::test]
async fn data_are_written_read_and_deleted() {
    let (_redis, cart) = started().await;
    assert_eq!(cart.get().await.reason(), "state-not-found");
    assert_eq!(cart.delete().await.status, StatusCode::NO_CONTENT, "nothing to delete is no error");

    let json = [("content-type", "application/json; charset=utf-8")];
    let created = cart.send(Method::PUT, "", &json, r#"{"items":3}"#).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let read = cart.get().await;
    assert_eq!((read.status, &read.body[..]), (StatusCode::OK, &br#"{"items":3}"#[..]));
    assert_eq!(read.header("content-type"), json[0].1);
    assert_eq!(read.header("cache-control"), "no-store");
    assert_eq!(read.etag(), created.etag());

    let bytes: Vec<u8> = (0..=255).collect();
    let replaced = cart.send(Method::PUT, "", &[], bytes.clone()).await;
    assert_eq!((replaced.status, replaced.body.len()), (StatusCode::NO_CONTENT, 0));
    assert_ne!(replaced.etag(), created.etag());
    let read = cart.get().await;
    assert_eq!((&read.body[..], read.header("content-type")), (&bytes[..], "application/octet-stream"));

    let head = cart.send(Method::HEAD, "", &[], "").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (StatusCode::OK, "256", 0));
    assert_eq!(cart.delete().await.status, StatusCode::NO_CONTENT);
    assert_eq!(cart.get().await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn conditions_decide_whether_a_write_happens() {
    let (_redis, cart) = started().await;
    let any = cart.put_if(("if-match", "*"), "1").await;
    assert_eq!(any.reason(), "state-precondition-failed");
    assert_eq!(any.etag(), "", "there is nothing to name");

    let first = cart.put_if(("if-none-match", "*"), "1").await;
    assert_eq!(first.status, StatusCode::CREATED);
    let again = cart.put_if(("if-none-match", "*"), "2").await;
    assert_eq!((again.reason().as_str(), again.etag()), ("state-precondition-failed", first.etag()));

    let list = format!(r#""other", {}"#, first.etag());
    let second = cart.put_if(("if-match", &list), "2").await;
    assert_eq!(second.status, StatusCode::NO_CONTENT);
    for stale in [first.etag(), format!("W/{}", second.etag()), r#""other""#.to_owned()] {
        assert_eq!(cart.put_if(("if-match", &stale), "3").await.reason(), "state-precondition-failed");
        let deleted = cart.send(Method::DELETE, "", &[("if-match", &stale)], "").await;
        assert_eq!(deleted.reason(), "state-precondition-failed");
    }
    assert_eq!(cart.get().await.body, "2");

    let fresh = cart.send(Method::GET, "", &[("if-none-match", &second.etag())], "").await;
    assert_eq!((fresh.status, fresh.etag()), (StatusCode::NOT_MODIFIED, second.etag()));
    let stale = cart.send(Method::GET, "", &[("if-none-match", &first.etag())], "").await;
    assert_eq!(stale.status, StatusCode::OK);

    let deleted = cart.send(Method::DELETE, "", &[("if-match", &second.etag())], "").await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    let recreated = cart.put("1").await;
    assert_ne!(recreated.etag(), first.etag(), "an etag names one write for ever");
    assert_eq!(cart.put_if(("if-none-match", r#""a""#), "3").await.reason(), "state-bad-precondition");
}

/// Each of 100 writers adds itself to a list by compare-and-set. An update that is lost, or done twice,
/// shows in the list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost_in_a_race() {
    const WRITERS: usize = 100;
    let (_redis, cart) = started().await;
    assert_eq!(cart.put("[]").await.status, StatusCode::CREATED);
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(add(cart.clone(), writer))).collect();
    let (mut conflicts, mut unavailable) = (0, 0);
    for writer in writers {
        let (lost_races, away) = writer.await.unwrap();
        conflicts += lost_races;
        unavailable += away;
    }
    let mut list: Vec<usize> = serde_json::from_slice(&cart.get().await.body).unwrap();
    list.sort_unstable();
    assert_eq!(list, (0..WRITERS).collect::<Vec<_>>());
    println!("{WRITERS} writers: {conflicts} conflicts, {unavailable} x 503, {:?}", began.elapsed());
}

/// Adds `writer` to the list; how often another was faster, and how often the API had no time for it.
async fn add(cart: Function, writer: usize) -> (usize, usize) {
    let (mut conflicts, mut unavailable) = (0, 0);
    loop {
        let read = cart.get().await;
        if read.status == StatusCode::SERVICE_UNAVAILABLE {
            unavailable += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        let mut list: Vec<usize> = serde_json::from_slice(&read.body).unwrap();
        if list.contains(&writer) {
            // The write of which we heard nothing was done after all.
            return (conflicts, unavailable);
        }
        list.push(writer);
        let written = cart.put_if(("if-match", &read.etag()), &serde_json::to_string(&list).unwrap()).await;
        match written.status {
            StatusCode::NO_CONTENT => return (conflicts, unavailable),
            StatusCode::PRECONDITION_FAILED => conflicts += 1,
            StatusCode::SERVICE_UNAVAILABLE => unavailable += 1,
            other => panic!("{other}: {written:?}"),
        }
    }
}

#[tokio::test]
async fn data_live_for_their_ttl_after_the_last_use() {
    let (redis, cart) = started().await;
    let key = data_key();
    cart.put("x").await;
    let default: u64 = redis.command(&["PTTL", &key]).await;
    let expected = u64::try_from(SESSION_TTL.as_millis()).unwrap();
    assert!(default <= expected && default > expected - 10_000, "{default}");

    cart.send(Method::PUT, "?ttl=1h", &[], "y").await;
    redis.command::<u64>(&["PEXPIRE", &key, "5000"]).await;
    assert_eq!(cart.get().await.body, "y");
    let after_read: u64 = redis.command(&["PTTL", &key]).await;
    assert!(after_read > 3_590_000, "a read starts the hour anew: {after_read}");

    cart.send(Method::PUT, "?ttl=1s", &[], "z").await;
    assert_eq!(cart.get().await.body, "z");
    let deadline = Instant::now() + Duration::from_secs(5);
    while redis.command::<bool>(&["EXISTS", &key]).await {
        assert!(Instant::now() < deadline, "never expired");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cart.get().await.reason(), "state-not-found");
    for query in ["?ttl=0s", "?ttl=9601h", "?ttl=soon", "?tll=1s"] {
        assert_eq!(cart.send(Method::PUT, query, &[], "x").await.reason(), "state-bad-ttl", "{query}");
    }
}

#[tokio::test]
async fn what_is_too_large_or_malformed_is_not_stored() {
    let (_redis, cart) = started().await;
    assert_eq!(cart.put(&"x".repeat(LIMIT)).await.status, StatusCode::CREATED);
    let announced = cart.put(&"y".repeat(LIMIT + 1)).await;
    assert_eq!(
        (announced.status, announced.reason().as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "state-too-large")
    );

    let chunk =
        |_| Ok::<_, std::io::Error>(hyper::body::Frame::data(bytes::Bytes::from("z".repeat(LIMIT / 2))));
    let chunks = http_body_util::StreamBody::new(futures_util::stream::iter((0..3).map(chunk)));
    let request = Request::put(format!("/v1/session/{}", cart.session))
        .header("authorization", format!("bearer {}", cart.token))
        .body(chunks)
        .unwrap();
    assert_eq!(cart.exchange(request).await.reason(), "state-too-large", "without an announcement");

    let json = [("content-type", "application/json")];
    for broken in ["", "{", "{} {}", "\u{0}"] {
        assert_eq!(cart.send(Method::PUT, "", &json, broken).await.reason(), "state-bad-json", "{broken}");
    }
    let long = "x".repeat(300);
    let refused = cart.send(Method::PUT, "", &[("content-type", &long)], "x").await;
    assert_eq!(refused.reason(), "state-bad-content-type");
    assert_eq!(cart.get().await.body, "x".repeat(LIMIT), "the first write is untouched");
}

#[tokio::test]
async fn a_function_reaches_only_its_own_sessions() {
    let (redis, cart) = started().await;
    cart.put("mine").await;
    let users = FunctionKey::new("demo", "users");
    let foreign_keys = Keys::parse("the secret of another installation....").unwrap();

    for token in ["", "x", "pl1.demo.cart.", &foreign_keys.state_token(&super::api::cart())] {
        let stranger = Function { token: token.to_owned(), ..cart.clone() };
        let answer = stranger.get().await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::UNAUTHORIZED, "state-unauthenticated")
        );
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let own = session_of(&users, 1).as_str().to_owned();
    let neighbour = Function { token: keys().state_token(&users), ..cart.clone() };
    let theirs = Function { session: own.clone(), ..cart.clone() };
    let another = session_of(&super::api::cart(), 2).as_str().to_owned();
    let forged = format!("{}.{}", &another[..22], &own[23..]);
    for intruder in [
        neighbour.clone(),
        theirs,
        Function { session: forged, ..neighbour.clone() },
        Function { session: "x".to_owned(), ..cart.clone() },
        Function { session: "..%2f..".to_owned(), ..cart.clone() },
    ] {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let answer = intruder.send(method, "", &[], "theirs").await;
            assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "state-forbidden"));
        }
    }
    // The same random bits, rightly signed for the other function, are another session.
    let other = Function { session: own, ..neighbour };
    assert_eq!(other.get().await.status, StatusCode::NOT_FOUND);
    assert_eq!(cart.get().await.body, "mine");
    let keys: Vec<String> = redis.command(&["KEYS", "*"]).await;
    assert_eq!(keys, [data_key()], "nothing else was written");
}

#[tokio::test]
async fn what_the_api_does_not_know_it_says() {
    let (redis, cart) = started().await;
    assert_eq!(cart.send(Method::POST, "", &[], "x").await.reason(), "state-no-such-method");
    assert_eq!(cart.send(Method::GET, "/more", &[], "").await.reason(), "state-no-such-path");
    let without = Request::get(format!("/v1/session/{}", cart.session));
    let answer = cart.exchange(without.body(http_body_util::Empty::new()).unwrap()).await;
    assert_eq!(answer.reason(), "state-unauthenticated");

    let disabled = serve(None, LIMIT).await;
    let answer = disabled.get().await;
    assert_eq!((answer.reason().as_str(), answer.header("retry-after")), ("state-disabled", ""));

    redis.command::<()>(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(cart.put("x").await.status, StatusCode::CREATED, "scripts are loaded again");
}

#[tokio::test]
async fn writes_may_carry_a_structure_of_any_shape() {
    let (_redis, cart) = started().await;
    let document: Value = json!({ "a": [1, null, { "ü": "\u{1F525}" }] });
    let json = [("content-type", "application/json")];
    cart.send(Method::PUT, "", &json, document.to_string()).await;
    assert_eq!(serde_json::from_slice::<Value>(&cart.get().await.body).unwrap(), document);
}
