//! The cart against a state API that keeps its entries in a map.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

const TOKEN: &str = "pl1.demo.cart.signature";

/// Versions and bodies by session, and how often a save came too late.
#[derive(Default)]
struct Fake {
    entries: Mutex<HashMap<String, (u64, Bytes)>>,
    outrun: AtomicU32,
}

fn authorized(headers: &HeaderMap) -> bool {
    headers.get(header::AUTHORIZATION).is_some_and(|value| *value == format!("Bearer {TOKEN}"))
}

async fn fake_get(State(fake): State<Arc<Fake>>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    if !authorized(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match fake.entries.lock().unwrap().get(&id) {
        Some((version, body)) => ([(header::ETAG, format!("\"{version}\""))], body.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn fake_put(
    State(fake): State<Arc<Fake>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> StatusCode {
    let mut entries = fake.entries.lock().unwrap();
    let current = entries.get(&id).map(|(version, _)| *version);
    let expected = match current {
        Some(version) => (header::IF_MATCH, format!("\"{version}\"")),
        None => (header::IF_NONE_MATCH, "*".to_owned()),
    };
    if headers.get(&expected.0).is_none_or(|value| *value != expected.1) {
        fake.outrun.fetch_add(1, SeqCst);
        return StatusCode::PRECONDITION_FAILED;
    }
    entries.insert(id, (current.unwrap_or(0) + 1, body));
    StatusCode::NO_CONTENT
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

async fn start(token: &str) -> (String, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    let routes = Router::new().route("/v1/session/{id}", get(fake_get).put(fake_put));
    let state = serve(routes.with_state(fake.clone())).await;
    (serve(router(StateApi::new(state, token))).await, fake)
}

/// Sends a request of the session `s1`; returns status and JSON.
async fn call(address: &str, request: &str, body: &str) -> (u16, Value) {
    let head = format!("{request} HTTP/1.1\r\nPilotlight-Session-Id: s1");
    call_raw(address, &head, body).await
}

async fn call_raw(address: &str, head: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request =
        format!("{head}\r\nhost: cart\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert_eq!(head.contains("503"), head.contains("retry-after: 1"), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn items_are_added_shown_and_removed() {
    let (cart, _) = start(TOKEN).await;
    assert_eq!(call(&cart, "GET /cart", "").await, (200, json!({"items": {}})));
    call(&cart, "POST /items", r#"{"sku":"tea","quantity":2}"#).await;
    call(&cart, "POST /items", r#"{"sku":"cup","quantity":1}"#).await;
    let both = (200, json!({"items": {"tea": 5, "cup": 1}}));
    assert_eq!(call(&cart, "POST /items", r#"{"sku":"tea","quantity":3}"#).await, both);
    assert_eq!(call(&cart, "GET /cart", "").await, both);
    assert_eq!(call(&cart, "DELETE /items/tea", "").await, (200, json!({"items": {"cup": 1}})));
    assert_eq!(call(&cart, "DELETE /items/tea", "").await.0, 404);
}

#[tokio::test]
async fn changes_at_the_same_time_all_count() {
    let (cart, fake) = start(TOKEN).await;
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let cart = cart.clone();
            tokio::spawn(async move { call(&cart, "POST /items", r#"{"sku":"tea","quantity":1}"#).await.0 })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), 200);
    }
    assert_eq!(call(&cart, "GET /cart", "").await.1, json!({"items": {"tea": 20}}));
    assert!(fake.outrun.load(SeqCst) > 0, "at least one save was outrun and tried again");
}

#[tokio::test]
async fn a_state_api_that_is_away_is_a_503_that_says_so() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let closed = listener.local_addr().unwrap().to_string();
    drop(listener);
    let cart = serve(router(StateApi::new(closed, TOKEN))).await;
    let (status, body) = call(&cart, "GET /cart", "").await;
    assert_eq!(status, 503);
    assert!(body["message"].as_str().unwrap().starts_with("carts cannot be reached"), "{body}");

    let problem = Json(json!({"detail": "the store is away"}));
    let away = Router::new().fallback(async || (StatusCode::SERVICE_UNAVAILABLE, problem));
    let cart = serve(router(StateApi::new(serve(away).await, TOKEN))).await;
    let (status, body) = call(&cart, "POST /items", r#"{"sku":"tea","quantity":1}"#).await;
    assert_eq!(status, 503);
    assert!(body["message"].as_str().unwrap().ends_with("the store is away"), "{body}");
}

#[tokio::test]
async fn a_refused_token_is_told_from_an_outage() {
    let (cart, _) = start("pl1.demo.other.signature").await;
    assert_eq!(call(&cart, "GET /cart", "").await.0, 502);
}

#[tokio::test]
async fn a_request_without_a_session_is_told_what_is_missing() {
    let (cart, _) = start(TOKEN).await;
    for header in ["", "\r\nPilotlight-Session-Id: ../other", "\r\nPilotlight-Session-Id: .."] {
        let (status, body) = call_raw(&cart, &format!("GET /cart HTTP/1.1{header}"), "").await;
        assert_eq!(status, 400, "{header}");
        assert!(body["message"].as_str().unwrap().contains("spec.session"), "{body}");
    }
}

#[test]
fn bad_items_are_refused_with_the_field_at_fault() {
    for (body, expected) in [
        ("", "the body is not JSON"),
        ("[]", "sku must be"),
        (r#"{"quantity":1}"#, "sku must be"),
        (r#"{"sku":"","quantity":1}"#, "sku must be"),
        (r#"{"sku":"a b","quantity":1}"#, "sku must be"),
        (r#"{"sku":"tea"}"#, "quantity must be"),
        (r#"{"sku":"tea","quantity":0}"#, "quantity must be"),
        (r#"{"sku":"tea","quantity":-1}"#, "quantity must be"),
        (r#"{"sku":"tea","quantity":1.5}"#, "quantity must be"),
        (r#"{"sku":"tea","quantity":1001}"#, "quantity must be"),
        (r#"{"sku":"tea","quantity":4294967297}"#, "quantity must be"),
    ] {
        match Item::parse(body.as_bytes()) {
            Err(Failure::Invalid(message)) => assert!(message.starts_with(expected), "{body}: {message}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn a_cart_is_bounded() {
    let mut cart = Cart::default();
    let tea = Item { sku: "tea".to_owned(), quantity: cart::MAX_QUANTITY };
    cart.add(&tea).unwrap();
    assert!(matches!(cart.add(&tea), Err(Failure::Invalid(_))), "too many of one");
    for number in 1..cart::MAX_ITEMS {
        cart.add(&Item { sku: format!("sku-{number}"), quantity: 1 }).unwrap();
    }
    assert!(matches!(cart.add(&Item { sku: "last".to_owned(), quantity: 1 }), Err(Failure::Invalid(_))));
}
