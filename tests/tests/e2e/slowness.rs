//! Clients that send or read too slowly, beside others that do not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use pilotlight_tests::{Load, Scope, await_condition, objects::hello, scoped};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::sessions::cart_spec;
use crate::support::{SECONDS, START};

/// How many do either.
const SENDERS: usize = 20;
const READERS: usize = 5;
/// `activator.limits.minRateGrace` and `stallTimeout` of the chart, and time for a machine that does other things.
const GRACE: Duration = Duration::from_secs(5);
const STALL: Duration = Duration::from_secs(60);
const SLACK: Duration = Duration::from_secs(20);
/// More than all the sockets on the way keep: the kernel lets each grow to 32 MiB (`tcp_rmem`) as long as it is read.
const BODY: usize = 1 << 30;

async fn post(scope: &Scope, function: &str, path: &str, length: usize) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(&scope.cluster.activator).await?;
    let host = format!("{function}.{}.pilotlight.local", scope.namespace);
    let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// Sends the beginning of a body that the function waits for, and then a byte a second.
async fn slow_sender(scope: &Scope) -> Result<()> {
    let (mut read, mut write) = post(scope, "cart", "/items", 1_000).await?.into_split();
    let mut answer = String::new();
    let drip = async {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        read = timeout(GRACE + SLACK, read.read_to_string(&mut answer)) => drop(read.context("no answer")??),
        () = drip => {}
    }
    ensure!(answer.starts_with("HTTP/1.1 408") && answer.contains("slow-body"), "{answer}");
    Ok(())
}

/// Asks for its own body back and takes nothing of it. Nobody on the way keeps it, so it cannot send it either.
async fn slow_reader(scope: &Scope) -> Result<()> {
    let mut stream = post(scope, "hello", "/echo", BODY).await?;
    let piece = vec![b'x'; 64 * 1024];
    let send = async {
        for _ in 0..BODY / piece.len() {
            stream.write_all(&piece).await?;
        }
        std::io::Result::Ok(())
    };
    let sent = timeout(STALL + SLACK, send).await.context("it is not cut")?;
    ensure!(sent.is_err(), "all of it was taken");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_too_slow_is_ended_and_disturbs_nobody() -> Result<()> {
    scoped(async |scope| {
        let caller = scope.deploy("hello", hello(json!({ "scaling": { "warm": 1 } }))).await?;
        let cart = scope.deploy("cart", cart_spec()).await?;
        scope.await_pods("hello", 1, START).await?;
        ensure!(cart.get("/cart").await?.status == 200, "the cart answers");
        let load = Load::new(&caller, "/", 40.0).start();
        let senders = try_join_all((0..SENDERS).map(|_| slow_sender(scope)));
        let readers = try_join_all((0..READERS).map(|_| slow_reader(scope)));
        let (senders, readers) = tokio::join!(senders, readers);
        let report = load.stop().await?;
        println!("beside clients that are too slow: {report}");
        senders.context("who sends too slowly")?;
        readers.context("who reads too slowly")?;
        report.all_answered()?;
        ensure!(report.latency_at(0.95) < Duration::from_millis(500), "{report}");
        await_condition(SECONDS, "every slot is back", async || {
            let functions = scope.cluster.debug_functions().await?;
            let own = |name: &str| format!("{}/{name}", scope.namespace);
            let busy = functions.iter().find(|shown| {
                [own("hello"), own("cart")].iter().any(|name| shown["function"] == **name)
                    && (shown["in_flight"] != 0 || shown["held"] != 0)
            });
            ensure!(busy.is_none(), "{busy:?}");
            Ok(())
        })
        .await?;
        let metrics = scope.cluster.admin("activator", "/metrics").await?.join("\n");
        ensure!(metrics.contains("pilotlight_limit_reached_total{limit=\"slow-reader\"}"), "it is counted");
        Ok(())
    })
    .await
}
