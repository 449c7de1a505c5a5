//! Orders in, outcomes out: one line of JSON each.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::mpsc};

use crate::{backend, bulk, http1, http2, idle, tally::Window, websocket};

/// A load that takes so much longer than its window hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A load to run.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Order {
    #[serde(flatten)]
    shape: Shape,
    /// Where to connect to.
    pub(crate) target: SocketAddr,
    /// The host that is called.
    pub(crate) host: String,
    pub(crate) connections: u32,
    /// Length of each body or message.
    pub(crate) bytes: u64,
    /// Length of the window that counts.
    seconds: f64,
    /// Whose CPU time and memory count.
    pub(crate) pid: Option<u32>,
}

/// What kind of load.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case")]
enum Shape {
    /// HTTP/1.1 requests, the next when the last is answered
    Closed,
    /// HTTP/1.1 requests at a rate
    Open { per_second: f64 },
    /// HTTP/2 requests
    Http2 { streams: u32 },
    /// Large bodies
    Bulk { direction: Direction },
    /// WebSocket messages
    Websocket,
    /// Idle connections
    Idle,
}

/// Which way bodies go.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    /// To the client
    Down,
    /// From the client
    Up,
}

/// What came of a load.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    per_second: f64,
    bytes_per_second: f64,
    /// Of the process that was named, per exchange.
    cpu_micros: Option<f64>,
    /// Of the process that was named, per MiB of bodies.
    cpu_micros_per_mib: Option<f64>,
    /// Of one core, 1 at most per thread.
    busy: Option<f64>,
    p50_micros: f64,
    p99_micros: f64,
    /// Of the process that was named, by which it grew, per connection.
    memory: Option<f64>,
}

impl Order {
    /// Length of the window that counts.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    async fn run(&self) -> Result<Outcome> {
        let window = match self.shape {
            Shape::Closed => http1::closed(self).await?,
            Shape::Open { per_second } => http1::open(self, per_second).await?,
            Shape::Http2 { streams } => http2::closed(self, streams).await?,
            Shape::Bulk { direction } => bulk::bodies(self, direction).await?,
            Shape::Websocket => websocket::messages(self).await?,
            Shape::Idle => {
                let pid = self.pid.context("idle needs a pid")?;
                let grown = idle::memory(self, pid).await? as f64;
                return Ok(Outcome {
                    memory: Some(grown / f64::from(self.connections)),
                    ..Outcome::default()
                });
            }
        };
        Ok(Outcome::of(&window))
    }
}

impl Outcome {
    fn of(window: &Window) -> Self {
        let micros = |quantile| window.latency.value_at_quantile(quantile) as f64 / 1e3;
        let mebibytes = window.bytes as f64 / f64::from(1 << 20);
        Self {
            per_second: window.done as f64 / window.seconds,
            bytes_per_second: window.bytes as f64 / window.seconds,
            cpu_micros: window.cpu_seconds.map(|cpu| cpu * 1e6 / window.done as f64),
            cpu_micros_per_mib: window.cpu_seconds.map(|cpu| cpu * 1e6 / mebibytes),
            busy: window.cpu_seconds.map(|cpu| cpu / window.seconds),
            p50_micros: micros(0.5),
            p99_micros: micros(0.99),
            memory: None,
        }
    }
}

/// Serves the backend, and runs one order after another until there are no more.
pub(crate) async fn drive(backend: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(backend).await.context("--backend")?;
    tokio::spawn(backend::serve(listener));
    let (sender, mut orders) = mpsc::unbounded_channel();
    // A thread of its own: the backend serves on while no order has come.
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    while let Some(line) = orders.recv().await {
        let outcome = match obey(&line).await {
            Ok(outcome) => serde_json::to_value(outcome)?,
            Err(error) => serde_json::json!({ "error": format!("{error:#}") }),
        };
        println!("{outcome}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

async fn obey(line: &str) -> Result<Outcome> {
    let order: Order = serde_json::from_str(line).context("an order")?;
    let spinning = tokio::spawn(spin());
    let run = tokio::time::timeout(order.duration() + PATIENCE, order.run()).await;
    spinning.abort();
    run.context("the load hangs")?
}

/// Never lets this process sleep. Waking it would cost whoever sends to it, which is the proxy: the slower it is,
/// the more often. Clients and pods on other machines cost it no such thing.
async fn spin() {
    loop {
        tokio::task::yield_now().await;
    }
}
