//! HTTP/2 conformance: what h2spec finds wrong with the activator must also be wrong with bare hyper.
//!
//! Needs the h2spec program, so it runs only when it is asked for: `cargo xtask test` builds h2spec and runs
//! this with its path in `PILOTLIGHT_H2SPEC`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is how a test fails

#[allow(dead_code)] // h2spec needs less of it than the integration tests
#[path = "../it/proxy/bed.rs"]
mod bed;

use std::{collections::BTreeSet, convert::Infallible, net::SocketAddr, path::Path, time::Duration};

use http::Response;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilotlight_crds::{FunctionSpec, Route};
use tokio::{net::TcpListener, process::Command};

use bed::{Bed, Pod, after, full};

/// Fewer cases than h2spec 2.2.1 has in strict mode would mean that its report was not understood.
const CASES: usize = 140;

/// What h2spec says of a server.
#[derive(Debug)]
struct Found {
    cases: usize,
    /// Package, number and title of each case that failed.
    failed: BTreeSet<String>,
}

/// The value of an attribute in a line of a JUnit report.
fn attribute<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(&format!(" {name}=\""))?.1.split_once('"').map(|(value, _)| value)
}

/// One `<testcase>` after another, each with a `<failure>` or `<error>` in it if it failed.
fn read(report: &str) -> Found {
    let cases: Vec<_> = report.split("<testcase ").skip(1).collect();
    let failed = cases.iter().filter(|case| case.contains("<failure") || case.contains("<error"));
    let name = |case: &&&str| {
        let line = format!(" {case}");
        let part = |name| attribute(&line, name).expect("a report of JUnit").to_owned();
        format!("{}: {}", part("package"), part("classname"))
    };
    let failed = failed.map(|case| name(&case)).collect();
    Found { cases: cases.len(), failed }
}

async fn h2spec(program: &str, addr: SocketAddr, report: &Path) -> Found {
    let output = Command::new(program)
        .args(["--strict", "--host", "127.0.0.1", "--port", &addr.port().to_string(), "--junit-report"])
        .arg(report)
        .kill_on_drop(true)
        .output()
        .await
        .expect("PILOTLIGHT_H2SPEC names a program");
    let text = std::fs::read_to_string(report).unwrap_or_else(|_| panic!("no report: {output:?}"));
    read(&text)
}

/// The least server that hyper makes.
async fn bare_hyper() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(full("hello"))));
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn the_activator_fails_no_case_that_hyper_passes() {
    let program = std::env::var("PILOTLIGHT_H2SPEC").expect(
        "PILOTLIGHT_H2SPEC is the path of the h2spec program: `cargo xtask test` builds it and runs this test",
    );
    let route = Route { hosts: vec!["127.0.0.1".into()], ..serde_json::from_str("{}").unwrap() };
    let bed = Bed::new(FunctionSpec { routes: vec![route], ..FunctionSpec::from_image("x") }).await;
    let pod = Pod::serving("a", after(Duration::ZERO)).await;
    bed.see(&pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    let folder = std::env::temp_dir().join(format!("pilotlight-h2spec-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let hyper = h2spec(&program, bare_hyper().await, &folder.join("hyper.xml")).await;
    let ours = h2spec(&program, bed.addr, &folder.join("activator.xml")).await;
    std::fs::remove_dir_all(&folder).unwrap();
    println!("hyper: {hyper:#?}\nactivator: {ours:#?}");
    assert!(hyper.cases >= CASES && ours.cases == hyper.cases, "{} and {}", hyper.cases, ours.cases);
    let worse: Vec<_> = ours.failed.difference(&hyper.failed).collect();
    assert!(worse.is_empty(), "fails here and not with bare hyper: {worse:#?}");
    assert!(pod.asked() > 0, "no case reached the pod");
}

#[test]
fn reports_are_read() {
    let report = r#"<testsuites><testsuite name="6. Frames" package="http2/6">
<testcase package="http2/6.1" classname="Sends one" time="0.1"></testcase>
<testcase package="http2/6.2" classname="Sends two" time="0.1"><failure>no</failure></testcase>
</testsuite></testsuites>"#;
    let found = read(report);
    assert_eq!((found.cases, found.failed.first().unwrap().as_str()), (2, "http2/6.2: Sends two"));
}
