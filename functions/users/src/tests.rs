//! The users function against a real `redis-server`, and its rules for input.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::*;

/// A `redis-server` of a test's own; ends with it.
struct Redis {
    process: Child,
    directory: PathBuf,
    port: u16,
}

impl Redis {
    async fn start() -> Self {
        let port = free_port().await;
        let directory = std::env::temp_dir().join(format!("users-test-{}-{port}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port"])
            .arg(port.to_string())
            .arg("--dir")
            .arg(&directory)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is on PATH");
        let redis = Self { process, directory, port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            assert!(Instant::now() < deadline, "redis-server did not start");
            sleep(Duration::from_millis(5)).await;
        }
        redis
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // By this child's own handle: nothing else on the machine is touched.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port()
}

/// Serves the function with the Redis at `url`; returns its address.
async fn start(url: &str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(axum::serve(listener, router(Store::new(url).unwrap())).into_future());
    address
}

/// Returns the response's head, in small letters, and its JSON.
async fn call(address: &str, request: &str, body: &str) -> (String, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{request} HTTP/1.1\r\nhost: users\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), serde_json::from_str(body).unwrap())
}

const ADA: &str = r#"{"name":"Ada Lovelace","email":"ada@example.com"}"#;

#[tokio::test]
async fn a_created_user_can_be_got_from_another_pod() {
    let redis = Redis::start().await;
    let (head, created) = call(&start(&redis.url()).await, "POST /users", ADA).await;
    let id = created["id"].as_str().unwrap();
    assert!(head.starts_with("http/1.1 201"), "{head}");
    assert!(head.contains(&format!("location: /users/{id}\r\n")), "{head}");
    assert_eq!((&created["name"], &created["email"]), (&"Ada Lovelace".into(), &"ada@example.com".into()));
    created["createdAt"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();

    let (head, got) = call(&start(&redis.url()).await, &format!("GET /users/{id}"), "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(got, created);
}

#[tokio::test]
async fn an_unknown_user_is_a_404_with_a_message() {
    let redis = Redis::start().await;
    let users = start(&redis.url()).await;
    for id in ["0123456789abcdef0123456789abcdef", "nobody", "%00"] {
        let (head, body) = call(&users, &format!("GET /users/{id}"), "").await;
        assert!(head.starts_with("http/1.1 404"), "{id}: {head}");
        assert_eq!(body["message"], "no user has this id");
    }
}

#[tokio::test]
async fn redis_away_is_a_503_in_bounded_time_and_its_return_heals() {
    let mut redis = Redis::start().await;
    let users = start(&redis.url()).await;
    let (_, created) = call(&users, "POST /users", ADA).await;
    redis.process.kill().unwrap();
    redis.process.wait().unwrap();

    let started = Instant::now();
    let (head, body) = call(&users, &format!("GET /users/{}", created["id"].as_str().unwrap()), "").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!(head.contains("retry-after: 1"), "{head}");
    assert_eq!(body["message"], "users cannot be reached at the moment");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());

    redis.process = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--port", &redis.port.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !call(&users, "POST /users", ADA).await.0.starts_with("http/1.1 201") {
        assert!(Instant::now() < deadline, "still 503 after Redis is back");
    }
}

#[tokio::test]
async fn a_redis_that_never_answers_is_a_503_in_bounded_time() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let users = start(&format!("redis://{}", silent.local_addr().unwrap())).await;
    let started = Instant::now();
    let (head, _) = call(&users, "POST /users", ADA).await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn bad_input_is_a_400_that_names_the_field_and_needs_no_redis() {
    let users = start(&format!("redis://127.0.0.1:{}", free_port().await)).await;
    let (head, body) = call(&users, "POST /users", r#"{"name":"","email":"ada@example.com"}"#).await;
    assert!(head.starts_with("http/1.1 400"), "{head}");
    assert_eq!(body["field"], "name");
    assert_eq!(body["message"], "name must have 1 to 100 printable characters");
}

#[track_caller]
fn check(body: &str, expected: Result<(), &str>) {
    match (NewUser::parse(body.as_bytes()), expected) {
        (Ok(_), Ok(())) => {}
        (Err(Failure::Invalid { field, message }), Err(expected)) => {
            assert_eq!(field, expected, "{body}");
            assert!(message.starts_with(expected), "{message}");
        }
        (got, _) => panic!("{body}: {got:?}, expected {expected:?}"),
    }
}

fn body(name: &str, email: &str) -> String {
    serde_json::json!({ "name": name, "email": email }).to_string()
}

#[test]
fn bodies_are_checked_field_by_field() {
    check("", Err("body"));
    check("[]", Err("body"));
    check("{}", Err("name"));
    check(r#"{"name":"Ada"}"#, Err("email"));
    check(r#"{"name":1,"email":"ada@example.com"}"#, Err("name"));
    check(r#"{"name":"Ada","email":null}"#, Err("email"));
}

#[test]
fn names_have_1_to_100_characters() {
    for name in ["A", "Zoë Ödön", " padded ", &"é".repeat(100)] {
        check(&body(name, "ada@example.com"), Ok(()));
    }
    for name in ["", "   ", "line\nbreak", &"a".repeat(101)] {
        check(&body(name, "ada@example.com"), Err("name"));
    }
}

#[test]
fn emails_look_like_addresses() {
    for email in ["a@b.co", "first.last+tag@mail.example.com", "ünï@exämple.org", "o'hara@example.com"] {
        check(&body("Ada", email), Ok(()));
    }
    let long_local = format!("{}@example.com", "a".repeat(65));
    let long = format!("a@{}com", "example.".repeat(32));
    let cases = ["", "ada", "@example.com", "ada@", "ada@localhost", "a b@example.com", "a@@example.com"];
    let more = ["a@ex..com", "a@-ex.com", "a@example.com.", ".a@example.com", "a@exa mple.com", "<a@b.co>"];
    for email in cases.into_iter().chain(more).chain([long_local.as_str(), long.as_str()]) {
        check(&body("Ada", email), Err("email"));
    }
}

#[test]
fn ids_are_random_and_recognised() {
    let (one, other) = (user::random_id().unwrap(), user::random_id().unwrap());
    assert_ne!(one, other);
    assert!(user::is_id(&one) && user::is_id(&other));
    assert!(!user::is_id("0123456789ABCDEF0123456789ABCDEF") && !user::is_id(""));
}
