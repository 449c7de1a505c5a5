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
    /// No header that only we may send has the client's value.
    #[serde(default)]
    spoof_absent: bool,
    /// Headers of ours are there although `Connection` names them.
    #[serde(default)]
    gateway_headers_present: bool,
    /// The path is forwarded as it was received and routed.
    #[serde(default)]
    policy_path_equals_upstream_path: bool,
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
fn complaint(case: &Case, log: &Log) -> Option<String> {
    let (Log { requests, pieces, malformed }, upstream) = (log, &case.upstream);
    // A request whose body breaks off may have begun.
    let counts = [requests.len(), requests.len() + pieces.len()];
    let sent: Vec<_> = case.raw.lines().skip(2).filter_map(|line| Some(line.split_once(": ")?.1)).collect();
    let target = case.raw.split(' ').nth(1).unwrap_or_default();
    let has_spoof = |seen: &Seen| seen.fields.iter().any(|(_, value)| sent.contains(&value.as_str()));
    let every = |wanted: bool, holds: &dyn Fn(&Seen) -> bool| !wanted || requests.iter().all(holds);
    let no_header = |seen: &Seen| upstream.no_header.iter().all(|header| !has(seen, header));
    let body = |seen: &Seen| upstream.body.as_ref().is_none_or(|body| seen.body == bytes(body));
    let rules = [
        ("malformed", malformed.is_empty()),
        ("requests", counts.iter().any(|count| upstream.requests.allows(*count))),
        ("header", every(true, &no_header)),
        ("body", every(true, &body)),
        ("spoof", every(upstream.spoof_absent, &|seen| !has_spoof(seen))),
        ("ours", every(upstream.gateway_headers_present, &|seen| seen.field("x-forwarded-for").is_some())),
        ("path", every(upstream.policy_path_equals_upstream_path, &|seen| seen.target == target)),
    ];
    let broken: Vec<_> = rules.iter().filter(|(_, holds)| !holds).map(|(name, _)| *name).collect();
    (!broken.is_empty()).then(|| format!("{broken:?}: {log:?}"))
}

/// Whether a request has a header, given as `name` or `name: value`.
fn has(seen: &Seen, header: &str) -> bool {
    let (name, value) = header.split_once(": ").unwrap_or((header, ""));
    seen.field(name).is_some_and(|known| value.is_empty() || known == value)
}

#[tokio::test]
async fn every_case_ends_as_a_strict_proxy_owes_it() {
    let Cases { cases } = serde_json::from_str(CASES).unwrap();
    let route = Route { hosts: vec!["fn.example".into()], ..serde_json::from_str("{}").unwrap() };
    let bed = Bed::new(FunctionSpec { routes: vec![route], ..FunctionSpec::from_image("x") }).await;
    let pod = RawPod::answering("a", HELLO, false).await;
    bed.see(&pod.pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    let (mut wrong, count) = (Vec::new(), cases.len());
    for mut case in cases {
        // The cases call a gateway's own headers so.
        for (theirs, ours) in [
            ("X-Gateway-", "Pilotlight-"),
            ("x-gateway-", "pilotlight-"),
            ("X-GATEWAY-", "PILOTLIGHT-"),
            ("X_Gateway_", "Pilotlight_"),
        ] {
            case.raw = case.raw.replace(theirs, ours);
        }
        let (answer, closed) = exchange(bed.addr, bytes(&case.raw)).await;
        bed.until_idle().await;
        let (status, expect) = (statuses(&answer).first().copied(), &case.expect);
        let fits = expect.status.is_empty() || status.is_some_and(|status| expect.status.contains(&status));
        let why = match complaint(&case, &pod.take()) {
            None if fits && (closed || !expect.close) => continue,
            why => why.unwrap_or_default(),
        };
        wrong.push(format!("{}: {status:?}, closed {closed}, {why} ({})", case.id, case.reference));
    }
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
}
