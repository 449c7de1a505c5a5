//! Raw HTTP/1 requests with the outcome that a strict proxy owes them (RFC 9110 and 9112).

use std::time::Duration;

use pilotlight_crds::{FunctionSpec, Route};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Bed,
    bed::{PATIENCE, Pod, after},
};

const CASES: &str = include_str!("../../data/http1-cases.json");
/// Cases that hyper decides before we see the request, safely but less strictly than the case wants:
/// `Transfer-Encoding` wins over `Content-Length`, which is removed, and the connection is closed (as RFC
/// 9112, section 6.1, allows); a fragment is cut off the target.
const LENIENT: [&str; 3] = ["te-and-cl", "te-and-cl-reversed", "target-08"];
/// Silence after which a connection that stays open has said what it had to say.
const SILENCE: Duration = Duration::from_millis(150);

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    raw: String,
    expect: Expect,
    upstream: Upstream,
    #[serde(rename = "ref")]
    reference: String,
}

#[derive(Deserialize)]
struct Expect {
    #[serde(default)]
    status: Vec<u16>,
    #[serde(default)]
    close: bool,
}

#[derive(Deserialize)]
struct Upstream {
    requests: OneOrMany,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    fn allows(&self, number: u32) -> bool {
        match self {
            Self::One(one) => *one == number,
            Self::Many(many) => many.contains(&number),
        }
    }
}

/// One byte per code point below 256; what is above goes as UTF-8.
fn bytes(raw: &str) -> Vec<u8> {
    let mut buffer = [0; 4];
    raw.chars()
        .flat_map(|c| {
            u8::try_from(c).map_or_else(|_| c.encode_utf8(&mut buffer).as_bytes().to_vec(), |b| vec![b])
        })
        .collect()
}

/// What comes back, and whether the connection was closed.
async fn exchange(bed: &Bed, raw: &str) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(bed.addr).await.unwrap();
    // A server that has refused may close before it has read everything.
    let _ = stream.write_all(&bytes(raw)).await;
    let mut answer = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let patience = if answer.is_empty() { PATIENCE } else { SILENCE };
        match tokio::time::timeout(patience, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return (answer, true),
            Ok(Ok(read)) => answer.extend_from_slice(&buffer[..read]),
            Err(_) => return (answer, false),
        }
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.get(..12)?).ok()?;
    line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?.parse().ok()
}

async fn run(case: &Case) -> Result<(), String> {
    let route = Route { hosts: vec!["fn.example".into()], ..serde_json::from_str("{}").unwrap() };
    let bed = Bed::new(FunctionSpec { routes: vec![route], ..FunctionSpec::from_image("x") }).await;
    let pod = Pod::serving("a", after(Duration::ZERO)).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    let (answer, closed) = exchange(&bed, &case.raw).await;
    let (status, asked) = (status(&answer), pod.asked());
    let fits =
        case.expect.status.is_empty() || status.is_some_and(|status| case.expect.status.contains(&status));
    if fits && (closed || !case.expect.close) && case.upstream.requests.allows(asked) {
        return Ok(());
    }
    Err(format!("{}: {status:?}, closed {closed}, {asked} reached the pod ({})", case.id, case.reference))
}

#[tokio::test]
async fn every_case_ends_as_a_strict_proxy_owes_it() {
    let Cases { cases } = serde_json::from_str(CASES).unwrap();
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|case| !LENIENT.contains(&case.id.as_str())) {
        wrong.extend(run(case).await.err());
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
