//! Mutations of a request with two lengths, as tools that look for request smuggling send them: each is refused,
//! or reaches the pod as exactly one request that nobody can read in two ways.

use futures_util::{StreamExt, stream};
use pilotlight_crds::FunctionSpec;
use serde::Deserialize;

use super::{
    Bed,
    raw::{HELLO, RawPod, exchange, statuses},
};

const MUTATIONS: &str = include_str!("../../data/smuggling-smuggler-mutations.json");
/// Connections at once.
const AT_ONCE: usize = 32;

#[derive(Deserialize)]
struct Mutations {
    mutations: Vec<Mutation>,
}

#[derive(Deserialize)]
struct Mutation {
    config: String,
    id: String,
    head_template: String,
}

/// A body with the length that `Content-Length` says. What lies behind that length is no request, so a reader
/// who goes by `Content-Length` takes one request and refuses the rest.
struct Payload {
    name: &'static str,
    length: usize,
    body: &'static str,
}

/// For a front that goes by `Content-Length` and a back that goes by `Transfer-Encoding`, and the other way.
const PAYLOADS: [Payload; 2] = [
    Payload { name: "cl-te", length: 6, body: "0\r\n\r\nG" },
    Payload { name: "te-cl", length: 3, body: "5\r\nhello\r\n0\r\n\r\n" },
];

impl Mutation {
    fn bytes(&self, payload: &Payload, number: usize) -> Vec<u8> {
        let head = self
            .head_template
            .replace("__METHOD__", "POST")
            .replace("__ENDPOINT__", "/")
            .replace("__RANDOM__", &number.to_string())
            .replace("__HOST__", "hello.demo")
            .replace("__REPLACE_CL__", &payload.length.to_string());
        let text = format!("{head}\r\n{}", payload.body);
        text.chars().map(|c| u8::try_from(c).unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mutation_is_refused_or_forwarded_without_doubt() {
    let Mutations { mutations } = serde_json::from_str(MUTATIONS).unwrap();
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = RawPod::answering("a", HELLO, false).await;
    bed.see(&pod.pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    let cases: Vec<_> = mutations
        .iter()
        .flat_map(|mutation| PAYLOADS.iter().map(move |payload| (mutation, payload)))
        .collect();
    let answers: Vec<_> = stream::iter(cases.iter().enumerate())
        .map(|(number, (mutation, payload))| exchange(bed.addr, mutation.bytes(payload, number)))
        .buffered(AT_ONCE)
        .collect()
        .await;
    let log = pod.log();
    assert_eq!((&log.malformed[..], &log.pieces[..]), (&[][..], &[][..]));
    let (mut wrong, mut forwarded) = (Vec::new(), 0);
    for (number, (mutation, payload)) in cases.iter().enumerate() {
        let reached: Vec<_> =
            log.requests.iter().filter(|seen| seen.target == format!("/?cb={number}")).collect();
        let (answer, closed) = &answers[number];
        let first = statuses(answer).first().copied().unwrap_or_default();
        let sound = match &reached[..] {
            [] => (400..500).contains(&first) && *closed,
            [one] => first == 200 && one.body == payload.body.as_bytes()[..payload.length],
            _ => false,
        };
        forwarded += reached.len();
        if !sound {
            let Mutation { config, id, .. } = mutation;
            wrong.push(format!("{config}/{id} {}: {first}, closed {closed}, {reached:?}", payload.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(log.requests.len(), forwarded, "nothing else reached the pod");
    assert!(forwarded > 0, "headers that only look like Transfer-Encoding are forwarded");
    println!("{} cases: {forwarded} forwarded, {} refused", cases.len(), cases.len() - forwarded);
}
