//! Memory: how much of it is used, and how short it is. What is bounded for each connection and request adds up
//! to more than any machine has; this keeps the sum below a budget, by doing less while it is short.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use prometheus::IntGauge;

/// How often it is measured: what a fast network can bring meanwhile fits into what is kept free.
const EVERY: Duration = Duration::from_millis(100);

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Shortage {
    /// There is enough.
    #[default]
    None,
    /// Nothing that can wait or be repeated without harm gets any: requests are not held, idle connections closed.
    High,
    /// Nothing new gets any: no connection is accepted, no request taken; clients that do not read are cut.
    Full,
}

impl Shortage {
    /// Parts of the budget, in percent, from which each begins, as Envoy's overload manager is commonly set up.
    const HIGH: u64 = 80;
    const FULL: u64 = 90;
    /// It ends so much lower, lest it comes and goes.
    const SLACK: u64 = 5;

    /// The shortage when so many bytes of a budget are used, after another.
    fn of(used: u64, budget: u64, before: Self) -> Self {
        let percent = used.saturating_mul(100) / budget.max(1);
        let reached = |level: Self, at: u64| percent >= if before >= level { at - Self::SLACK } else { at };
        match () {
            () if reached(Self::Full, Self::FULL) => Self::Full,
            () if reached(Self::High, Self::HIGH) => Self::High,
            () => Self::None,
        }
    }
}

/// The shortage of the moment, for everybody who needs memory.
#[derive(Debug, Default)]
pub struct Memory(AtomicU8);

impl Memory {
    /// How short it is.
    pub fn shortage(&self) -> Shortage {
        match self.0.load(Ordering::Relaxed) {
            0 => Shortage::None,
            1 => Shortage::High,
            _ => Shortage::Full,
        }
    }

    /// Says how short it is.
    pub fn set(&self, shortage: Shortage) {
        self.0.store(shortage as u8, Ordering::Relaxed);
    }
}

/// Measures for as long as the process lives.
pub async fn watch(memory: Arc<Memory>, budget: u64, shown: IntGauge) {
    loop {
        match used() {
            Ok(used) => {
                let before = memory.shortage();
                let shortage = Shortage::of(used, budget, before);
                if shortage != before {
                    tracing::warn!(used, budget, ?before, ?shortage, "memory");
                }
                memory.set(shortage);
                shown.set(shortage as i64);
            }
            Err(error) => tracing::warn!(%error, "cannot tell how much memory is used"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Bytes that count against a container's limit and that no pressure of the kernel gives back: the process's own,
/// and those of its sockets, where a cgroup tells (version 2).
fn used() -> io::Result<u64> {
    let kibibytes = field(&std::fs::read_to_string("/proc/self/status")?, "VmRSS:")
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no VmRSS in /proc/self/status"))?;
    // The root cgroup has no limit, and counts the sockets of the whole machine.
    let limited = std::fs::exists("/sys/fs/cgroup/memory.max")?;
    let stat = if limited { std::fs::read_to_string("/sys/fs/cgroup/memory.stat")? } else { String::new() };
    Ok(kibibytes * 1024 + field(&stat, "sock").unwrap_or(0))
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut words = text.lines().map(str::split_whitespace);
    words.find_map(|mut line| {
        line.next().filter(|first| *first == name).and_then(|_| line.next()?.parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortage_comes_early_and_goes_late() {
        use Shortage::{Full, High, None};
        let rows = [
            (None, 79, None),
            (None, 80, High),
            (None, 95, Full),
            (High, 76, High),
            (High, 74, None),
            (High, 90, Full),
            (Full, 86, Full),
            (Full, 84, High),
            (Full, 74, None),
        ];
        for (before, percent, expected) in rows {
            assert_eq!(Shortage::of(percent << 20, 100 << 20, before), expected, "{before:?}, {percent} %");
        }
    }

    #[test]
    fn this_process_uses_some() {
        let used = used().unwrap();
        assert!((1 << 20..1 << 40).contains(&used), "{used}");
        assert_eq!(field("anon 1\nsock 4096\nsock_x 5\n", "sock"), Some(4096));
    }
}
