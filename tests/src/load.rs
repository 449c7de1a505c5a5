//! Load at a fixed rate: each request has its time, whether or not earlier ones were answered, and its
//! latency is counted from then. A stall shows in full instead of slowing the load down.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::http::{CallError, Caller, Reply};

/// How many bad answers a report quotes: enough to see a pattern.
const QUOTED: usize = 5;
/// Latencies are counted in microseconds, up to 10 minutes, to three digits.
const LONGEST_MICROS: u64 = 600_000_000;
const DIGITS: u8 = 3;

/// Load to be put on a function.
#[derive(Clone, Debug)]
pub struct Load {
    caller: Caller,
    path: String,
    per_second: f64,
}

/// Load that is going on.
#[derive(Debug)]
pub struct Running {
    began: Instant,
    stop: CancellationToken,
    task: JoinHandle<Result<LoadReport>>,
}

/// What became of the requests.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// Requests sent.
    pub sent: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests that never left, for want of a connection: any client may send them again.
    pub unsent: u64,
    /// Requests that were sent, and had no whole answer.
    pub failed: u64,
    /// The first answers that were not 200, and the first failures, with the second when they were sent.
    pub quoted: Vec<String>,
    /// Those that were not answered with 200.
    pub bad: Vec<Bad>,
    /// From the time when each request was to be sent to the end of its answer, in microseconds.
    pub latency: Histogram<u64>,
}

/// A request that was not answered with 200; times are from the beginning of the load.
#[derive(Clone, Debug)]
pub struct Bad {
    /// When it was to be sent.
    pub sent: Duration,
    /// When that was known.
    pub ended: Duration,
    /// Whether it left at all: if not, any client may send it again.
    pub left: bool,
    /// What came of it.
    pub what: String,
}

/// What became of one request.
#[derive(Debug)]
struct Call {
    /// When it was to be sent, from the beginning of the load.
    offset: Duration,
    /// From then to the end of its answer.
    latency: Duration,
    outcome: Result<Reply, CallError>,
}

impl Load {
    /// GETs of `path`, `per_second`.
    pub fn new(caller: &Caller, path: &str, per_second: f64) -> Self {
        Self { caller: caller.clone(), path: path.to_owned(), per_second }
    }

    /// Puts the load on for so long.
    ///
    /// # Errors
    /// When a task panicked.
    pub async fn run(self, duration: Duration) -> Result<LoadReport> {
        let began = Instant::now();
        tokio::spawn(self.send_until(began, Some(began + duration), CancellationToken::new())).await?
    }

    /// Puts the load on until it is stopped.
    pub fn start(self) -> Running {
        let (began, stop) = (Instant::now(), CancellationToken::new());
        Running { began, task: tokio::spawn(self.send_until(began, None, stop.clone())), stop }
    }

    async fn send_until(
        self,
        began: Instant,
        until: Option<Instant>,
        stop: CancellationToken,
    ) -> Result<LoadReport> {
        let (mut tasks, mut report) = (JoinSet::new(), LoadReport::new()?);
        loop {
            let offset = Duration::from_secs_f64(report.sent as f64 / self.per_second);
            let due = began + offset;
            if until.is_some_and(|until| due >= until) {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                () = stop.cancelled() => break,
            }
            let (caller, path) = (self.caller.clone(), self.path.clone());
            tasks.spawn(async move {
                let outcome = caller.get(&path).await;
                Call { offset, latency: due.elapsed(), outcome }
            });
            report.sent += 1;
            while let Some(call) = tasks.try_join_next() {
                report.record(call?);
            }
        }
        while let Some(call) = tasks.join_next().await {
            report.record(call?);
        }
        Ok(report)
    }
}

impl Running {
    /// How long ago the load began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends the load, waits for the answers that are due, and says what became of all.
    ///
    /// # Errors
    /// When a task panicked.
    pub async fn stop(self) -> Result<LoadReport> {
        self.stop.cancel();
        self.task.await?
    }
}

impl LoadReport {
    fn new() -> Result<Self> {
        let latency = Histogram::new_with_max(LONGEST_MICROS, DIGITS)?;
        Ok(Self {
            sent: 0,
            statuses: BTreeMap::new(),
            unsent: 0,
            failed: 0,
            quoted: Vec::new(),
            bad: Vec::new(),
            latency,
        })
    }

    fn record(&mut self, Call { offset, latency, outcome }: Call) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_MICROS);
        self.latency.saturating_record(micros);
        let (what, left) = match outcome {
            Ok(reply) => {
                *self.statuses.entry(reply.status.as_u16()).or_default() += 1;
                if reply.status == 200 {
                    return;
                }
                (reply.describe(), true)
            }
            Err(error) => {
                let left = !matches!(error, CallError::Dial(_));
                *(if left { &mut self.failed } else { &mut self.unsent }) += 1;
                (error.to_string(), left)
            }
        };
        if self.quoted.len() < QUOTED {
            self.quoted.push(format!("sent at {:.2} s: {what}", offset.as_secs_f64()));
        }
        self.bad.push(Bad { sent: offset, ended: offset + latency, left, what });
    }

    /// How many were answered with 200.
    pub fn good(&self) -> u64 {
        self.statuses.get(&200).copied().unwrap_or(0)
    }

    /// How many that were to be sent after this time were not answered with 200.
    pub fn bad_after(&self, time: Duration) -> usize {
        self.bad.iter().filter(|bad| bad.sent > time).count()
    }

    /// Latency at a quantile, from when the request was to be sent.
    pub fn latency_at(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(quantile))
    }

    /// Makes sure that every request was answered with 200.
    ///
    /// # Errors
    /// With what was not.
    pub fn all_answered(&self) -> Result<()> {
        ensure!(self.sent > 0, "no request was sent");
        ensure!(self.good() == self.sent, "{self}\n{}", self.quoted.join("\n"));
        Ok(())
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |quantile| self.latency_at(quantile).as_secs_f64() * 1000.0;
        let statuses: Vec<_> =
            self.statuses.iter().map(|(status, count)| format!("{count} x {status}")).collect();
        write!(
            f,
            "{} sent: {}, {} failed, {} without a connection; p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            self.sent,
            statuses.join(", "),
            self.failed,
            self.unsent,
            millis(0.5),
            millis(0.95),
            millis(0.99),
            millis(1.0)
        )
    }
}
