//! What is counted while a load runs, and the window in which it counts.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::process;

/// Before the window: connections are made, caches are filled.
const WARM_UP: Duration = Duration::from_millis(300);
/// Latencies are counted in nanoseconds, up to a minute, to three digits.
const LONGEST_NANOS: u64 = 60_000_000_000;
const DIGITS: u8 = 3;

/// What all connections of a load write to.
#[derive(Debug)]
pub(crate) struct Tally {
    done: AtomicU64,
    bytes: AtomicU64,
    counting: AtomicBool,
    ended: AtomicBool,
    latency: Mutex<Histogram<u64>>,
}

/// What came of a window.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) seconds: f64,
    pub(crate) done: u64,
    pub(crate) bytes: u64,
    /// Of the process that was named.
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) latency: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            done: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            counting: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            latency: Mutex::new(Histogram::new_with_max(LONGEST_NANOS, DIGITS)?),
        })
    }

    /// One exchange is done, that was due at a time.
    pub(crate) fn done(&self, due: Instant) {
        self.done.fetch_add(1, Ordering::Relaxed);
        if self.counting.load(Ordering::Relaxed) {
            let nanos = u64::try_from(due.elapsed().as_nanos()).unwrap_or(LONGEST_NANOS);
            self.latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos);
        }
    }

    /// Bytes of bodies have moved.
    pub(crate) fn moved(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether connections should stop.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Waits for the warm-up, counts for `duration`, and tells the connections to stop.
    pub(crate) async fn window(&self, duration: Duration, pid: Option<u32>) -> Result<Window> {
        tokio::time::sleep(WARM_UP).await;
        self.counting.store(true, Ordering::Relaxed);
        let (began, before) = (Instant::now(), self.reading(pid)?);
        tokio::time::sleep(duration).await;
        let (seconds, after) = (began.elapsed().as_secs_f64(), self.reading(pid)?);
        self.counting.store(false, Ordering::Relaxed);
        self.ended.store(true, Ordering::Relaxed);
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Window {
            seconds,
            done: after.done - before.done,
            bytes: after.bytes - before.bytes,
            cpu_seconds: after.cpu.zip(before.cpu).map(|(after, before)| after - before),
            latency,
        })
    }

    fn reading(&self, pid: Option<u32>) -> Result<Reading> {
        Ok(Reading {
            done: self.done.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            cpu: pid.map(process::cpu_seconds).transpose()?,
        })
    }
}

struct Reading {
    done: u64,
    bytes: u64,
    cpu: Option<f64>,
}
