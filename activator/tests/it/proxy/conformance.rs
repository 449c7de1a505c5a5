//! Raw HTTP/1 requests with the outcome that a strict proxy owes them (RFC 9110 and 9112).

use pilotlight_crds::{FunctionSpec, Route};
use serde::Deserialize;

use super::{
    Bed,
    raw::{HELLO, Log, RawPod, Seen, exchange, statuses},
};

const CASES: &str = include_str!("../../data/http1-cases.json");
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

/// What may reach the pod.
#[derive(Deserialize)]
struct Upstream {
    requests: OneOrMany,
    /// What a request's body is, if one comes whole.
    body: Option<String>,
    /// Headers that no request has, as `name` or `name: value`.
    #[serde(default)]
    no_header: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(usize),
    Many(Vec<usize>),
}

impl OneOrMany {
    fn allows(&self, number: usize) -> bool {
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

/// What is wrong with what reached the pod.
fn complaint(upstream: &Upstream, log: &Log) -> Option<String> {
    let Log { requests, pieces, malformed } = log;
    if !malformed.is_empty() {
        return Some(format!("malformed: {malformed:?}"));
    }
    // A request whose body breaks off may have begun.
    if !upstream.requests.allows(requests.len()) && !upstream.requests.allows(requests.len() + pieces.len()) {
        return Some(format!("{} requests and {} pieces", requests.len(), pieces.len()));
    }
    if requests.iter().any(|seen| seen.target.contains("smuggled"))
        && upstream.body.is_none()
        && !upstream.requests.allows(2)
    {
        return Some("smuggled".into());
    }
    let has = |seen: &Seen, header: &String| {
        let (name, value) = header.split_once(": ").unwrap_or((header, ""));
        seen.field(name).is_some_and(|known| value.is_empty() || known == value)
    };
    let header = upstream.no_header.iter().find(|header| requests.iter().any(|seen| has(seen, header)));
    let body = upstream.body.as_ref().filter(|body| requests.iter().any(|seen| seen.body != bytes(body)));
    header
        .map(|header| format!("header {header}"))
        .or_else(|| body.map(|body| format!("a body that is not {body:?}")))
}

#[tokio::test]
async fn every_case_ends_as_a_strict_proxy_owes_it() {
    let Cases { cases } = serde_json::from_str(CASES).unwrap();
    let route = Route { hosts: vec!["fn.example".into()], ..serde_json::from_str("{}").unwrap() };
    let bed = Bed::new(FunctionSpec { routes: vec![route], ..FunctionSpec::from_image("x") }).await;
    let pod = RawPod::answering("a", HELLO, false).await;
    bed.see(&pod.pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    let mut wrong = Vec::new();
    for case in &cases {
        let (answer, closed) = exchange(bed.addr, bytes(&case.raw)).await;
        bed.until("nothing is in flight", |report| report.in_flight == 0).await;
        let (status, expect) = (statuses(&answer).first().copied(), &case.expect);
        let fits = expect.status.is_empty() || status.is_some_and(|status| expect.status.contains(&status));
        let why = match complaint(&case.upstream, &pod.take()) {
            None if fits && (closed || !expect.close) => continue,
            why => why.unwrap_or_default(),
        };
        wrong.push(format!("{}: {status:?}, closed {closed}, {why} ({})", case.id, case.reference));
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
