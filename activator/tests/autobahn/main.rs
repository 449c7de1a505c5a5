//! WebSocket conformance: Autobahn's cases end with and without the activator in the middle alike.
//!
//! Autobahn's own runner needs Python 2; kosoku runs the same case files. It is a Python package, so this runs
//! only when it is asked for: `cargo xtask test` installs kosoku and runs this with its folder in
//! `PILOTLIGHT_AUTOBAHN`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

#[allow(dead_code)] // this needs less of it than the integration tests
#[path = "../it/proxy/bed.rs"]
mod bed;

use std::{collections::BTreeMap, net::SocketAddr};

use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use pilotlight_crds::{FunctionSpec, Route};
use tokio::process::Command;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use bed::{Bed, Body, Pod, full};

/// Autobahn 25.10.1 has 517. Fewer would mean that not all were run.
const CASES: usize = 517;

/// Cases that ended otherwise are run again so many times: some steps must come within a second, which a busy
/// machine misses now and then, with the activator or without.
const AGAIN: usize = 3;

/// Prints the verdicts of cases on one server.
const RUN: &str = "
import asyncio, json, sys, kosoku
async def run():
    try:
        results = await kosoku.run_fuzzingclient(sys.argv[1], sys.argv[2:] or None, concurrency=4)
    except kosoku.FailureError as failed:
        results = failed.results
    print(json.dumps({r.case_id: [r.behavior.value, r.behavior_close.value, str(r.remote_close_code)] for r in results}))
asyncio.run(run())
";

/// By case: the verdicts on the messages and on the end, and the close code that the server sent.
type Verdicts = BTreeMap<String, [String; 3]>;

/// Runs these cases, or all.
async fn autobahn(folder: &str, addr: SocketAddr, cases: &[String]) -> Verdicts {
    let output = Command::new("python3")
        .args(["-c", RUN, &format!("ws://{addr}/")])
        .args(cases)
        .env("PYTHONPATH", folder)
        .kill_on_drop(true)
        .output()
        .await
        .expect("python3 runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no verdicts: {output:?}"))
}

/// Sends messages back. Autobahn's cases with compression find that there is none.
async fn echo(mut request: Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                break;
            }
        }
    });
    let accept = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
    let switch =
        Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
    switch.header("server", "echo").header("sec-websocket-accept", accept).body(full("")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_end_alike_with_and_without_the_activator() {
    let folder = std::env::var("PILOTLIGHT_AUTOBAHN").expect(
        "PILOTLIGHT_AUTOBAHN is a folder with kosoku in it: `cargo xtask test` installs it and runs this test",
    );
    let route = Route { hosts: vec!["127.0.0.1".into()], ..serde_json::from_str("{}").unwrap() };
    let bed = Bed::new(FunctionSpec { routes: vec![route], ..FunctionSpec::from_image("x") }).await;
    let pod = Pod::serving("a", echo).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    let direct = SocketAddr::from(([127, 0, 0, 1], pod.observed.port.unwrap()));
    let compare = async |cases: &[String]| {
        let (without, with) =
            tokio::join!(autobahn(&folder, direct, cases), autobahn(&folder, bed.addr, cases));
        let differs = |(case, verdict): &(&String, &[String; 3])| with.get(*case) != Some(verdict);
        let different: Vec<_> = without.iter().filter(differs).map(|(case, _)| case.clone()).collect();
        for case in &different {
            println!("{case}: {:?}, and with the activator {:?}", without[case], with.get(case));
        }
        (without, different)
    };
    let (without, mut different) = compare(&[]).await;
    let passed = without.values().filter(|verdict| verdict[0] == "OK").count();
    println!("{} cases, {passed} of them OK without the activator", without.len());
    assert!(without.len() >= CASES && passed > CASES / 2, "{without:?}");
    for _ in 0..AGAIN {
        if !different.is_empty() {
            different = compare(&different).await.1;
        }
    }
    assert!(different.is_empty(), "{different:?} end otherwise with the activator");
    bed.until("the slots are back", |report| report.in_flight == 0).await;
}
