//! The program that makes the load and is the backend: `bench-proxy` of the package `pilotlight-tests`.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::loads::{Figure, Load, Order};
use super::peers::{HOST, Running, Site};
use super::pinned::Pinned;
use crate::run;

/// What came of one load. What does not apply is NaN.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) per_second: f64,
    pub(super) bytes_per_second: f64,
    pub(super) cpu_micros: f64,
    pub(super) cpu_micros_per_mib: f64,
    /// Share of its core that the proxy used.
    pub(super) busy: f64,
    pub(super) p50_micros: f64,
    pub(super) p99_micros: f64,
    /// Bytes per connection.
    pub(super) memory: f64,
    figure: Figure,
}

/// The running program.
#[derive(Debug)]
pub(super) struct Driver {
    _process: Pinned,
    orders: ChildStdin,
    outcomes: BufReader<ChildStdout>,
}

impl Driver {
    pub(super) fn start(site: &Site) -> Result<Self> {
        let mut command = Pinned::command(site.load_core, &site.driver);
        command.args(["drive", "--backend", &site.backend.to_string()]);
        let mut child = run::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let (orders, outcomes) = (child.stdin.take(), child.stdout.take());
        let process = Pinned { child };
        let outcomes = BufReader::new(outcomes.context("no standard output")?);
        Ok(Self { _process: process, orders: orders.context("no standard input")?, outcomes })
    }

    /// Runs one load. The driver sees to it that this ends.
    pub(super) fn run(&mut self, load: Load, running: &Running, order: Order) -> Result<Outcome> {
        let mut line = load.order(order);
        let address = if load == Load::Http2 { running.http2 } else { running.http1 };
        line["target"] = address.to_string().into();
        line["host"] = HOST.into();
        line["pid"] = running.pid().map_or(Value::Null, Value::from);
        writeln!(self.orders, "{line}").context("the driver has ended")?;
        let mut answer = String::new();
        self.outcomes.read_line(&mut answer)?;
        let answer: Value = serde_json::from_str(&answer).context("the driver has ended")?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{error}");
        }
        let number = |name: &str| answer[name].as_f64().unwrap_or(f64::NAN);
        Ok(Outcome {
            per_second: number("per_second"),
            bytes_per_second: number("bytes_per_second"),
            cpu_micros: number("cpu_micros"),
            cpu_micros_per_mib: number("cpu_micros_per_mib"),
            busy: number("busy"),
            p50_micros: number("p50_micros"),
            p99_micros: number("p99_micros"),
            memory: number("memory"),
            figure: load.figure(),
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_second, cpu_micros, cpu_micros_per_mib, p50_micros, p99_micros, .. } = self;
        match self.figure {
            Figure::Exchanges => write!(f, "{per_second:.0}/s, {cpu_micros:.1} us CPU each"),
            Figure::Latency => {
                write!(f, "p50 {p50_micros:.0} us, p99 {p99_micros:.0} us, {cpu_micros:.1} us CPU")
            }
            Figure::Bytes => {
                write!(f, "{:.0} MiB/s, {cpu_micros_per_mib:.0} us CPU per MiB", self.mebibytes_per_second())
            }
            Figure::Memory => write!(f, "{:.1} KiB", self.memory / 1024.0),
        }
    }
}

impl Outcome {
    pub(super) fn mebibytes_per_second(&self) -> f64 {
        self.bytes_per_second / f64::from(1 << 20)
    }
}
