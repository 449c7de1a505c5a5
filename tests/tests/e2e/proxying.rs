//! What callers see: routes, headers, metrics, kubectl.

use anyhow::{Result, ensure};
use bytes::Bytes;
use pilotlight_tests::{Caller, await_condition, get, kubectl, objects::hello, request, scoped};
use serde_json::json;

use crate::support::{SECONDS, Whoami, expect_ok, expect_problem};

#[tokio::test(flavor = "multi_thread")]
async fn a_function_answers_on_each_of_its_routes() -> Result<()> {
    scoped(async |scope| {
        let namespace = &scope.namespace;
        let routes = json!([
            { "hosts": [format!("{namespace}.example.com")], "path": "/status" },
            { "hosts": [format!("*.{namespace}.example.org")] },
        ]);
        let own = scope.deploy("hello", hello(json!({ "routes": routes }))).await?;
        // The URL in the status is that of the first route.
        expect_ok(&own.get("/status/200").await?)?;
        for (host, path, expected) in [
            (format!("hello.{namespace}.pilotlight.local"), "/", 200),
            (format!("hello.{namespace}"), "/status/204", 204),
            (format!("HELLO.{namespace}.svc.cluster.local:80"), "/", 200),
            ("anything.example".to_owned(), &*format!("/fn/{namespace}/hello/status/201"), 201),
            (format!("a.{namespace}.example.org"), "/status/202", 202),
            (format!("a.b.{namespace}.example.org"), "/", 404),
            (format!("{namespace}.example.com"), "/statuses", 404),
            ("nobody.example".to_owned(), "/", 404),
        ] {
            let reply = Caller::new(&scope.cluster.activator, &host)?.get(path).await?;
            ensure!(reply.status == expected, "{host}{path}: {}", reply.describe());
            let reason = if expected == 404 { "no-such-function" } else { "" };
            ensure!(reply.reason() == reason, "{host}{path}: {}", reply.describe());
        }
        let stranger = Caller::new(&scope.cluster.activator, "nobody.example")?.get("/").await?;
        expect_problem(&stranger, 404, "no-such-function").map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_carry_our_meaning_cannot_be_forged() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("hello", hello(json!({}))).await?;
        let mut forged = get("/whoami");
        for name in ["Pilotlight-Session-Id", "pilotlight-cold-start", "PILOTLIGHT-ANYTHING"] {
            forged.headers_mut().append(name.parse::<http::HeaderName>()?, "forged".parse()?);
        }
        forged.headers_mut().insert("x-mine", "kept".parse()?);
        let seen = Whoami::read(&caller.send(forged).await?.text())?;
        ensure!(seen.session.is_none(), "{seen:?}");
        let ours = seen.headers.iter().find(|name| name.starts_with("pilotlight-"));
        ensure!(ours.is_none() && seen.headers.contains(&"x-mine".to_owned()), "{seen:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_statuses_pass_unchanged() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("hello", hello(json!({}))).await?;
        // Larger than any buffer on the way.
        let body = Bytes::from_iter((0..1_000_000_u32).map(|number| (number % 251) as u8));
        let echoed = caller.send(request(http::Method::PUT, "/echo", body.clone())).await?;
        expect_ok(&echoed)?;
        ensure!(echoed.body == body, "{} bytes came back", echoed.body.len());
        for status in [201_u16, 304, 404, 418, 500, 503] {
            let reply = caller.get(&format!("/status/{status}")).await?;
            ensure!(reply.status == status && reply.reason().is_empty(), "{}", reply.describe());
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_show_requests_holds_and_cold_starts() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("hello", hello(json!({}))).await?;
        expect_ok(&caller.get("/").await?)?;
        let namespace = &scope.namespace;
        let own = format!("function=\"hello\",namespace=\"{namespace}\"");
        let mut expected = vec![
            format!("pilotlight_requests_total{{class=\"2xx\",{own},source=\"function\"}} 1"),
            format!("pilotlight_cold_starts_total{{{own}}} 1"),
            format!("pilotlight_hold_seconds_count{{{own}}} 1"),
            format!("pilotlight_held{{{own}}} 0"),
            format!("pilotlight_ready_replicas{{{own}}} 1"),
            format!("pilotlight_desired_replicas{{{own}}} 1"),
            format!("pilotlight_decisions_total{{{own},reason=\"FromZero\"}} 1"),
        ];
        for phase in ["scaled", "pod_created", "scheduled", "address_known", "port_answers", "first_byte"] {
            expected.push(format!("pilotlight_cold_start_seconds_count{{phase=\"{phase}\"}}"));
        }
        await_condition(SECONDS, "the metrics show what happened", async || {
            let pages = scope.cluster.admin("activator", "/metrics").await?.join("\n");
            let missing: Vec<_> = expected.iter().filter(|line| !pages.contains(*line)).collect();
            let found: Vec<_> = pages.lines().filter(|line| line.contains(namespace.as_str())).collect();
            ensure!(missing.is_empty(), "missing {missing:#?} in\n{}", found.join("\n"));
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_what_matters() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("hello", hello(json!({}))).await?;
        expect_ok(&caller.get("/").await?)?;
        await_condition(SECONDS, "kubectl get fn shows the function", async || {
            let table = kubectl(&["get", "fn", "-n", &scope.namespace]).await?;
            let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let (header, row) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
            ensure!(
                header == ["NAME", "URL", "READY", "REPLICAS", "DESIRED", "WARM", "REVISION", "AGE"],
                "{table}"
            );
            let url = format!("http://hello.{}.pilotlight.local", scope.namespace);
            ensure!(row.get(..6) == Some(&["hello", &url, "True", "1", "1", "0"][..]), "{table}");
            Ok(())
        })
        .await
    })
    .await
}
