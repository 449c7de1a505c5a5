//! Memory: how much of it is used, and how short it is. What is bounded for each connection and request adds up
//! to more than any machine has; this keeps the sum below a budget, by doing less while it is short.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, Ordering},
    },
    time::Duration,
};

use prometheus::IntGauge;

/// How often it is measured.
const EVERY: Duration = Duration::from_millis(100);
/// What a request makes us keep, generously. Between two looks no more are taken than there is room for.
const REQUEST: u64 = 128 * 1024;

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

/// The memory of the moment, for everybody who needs some.
#[derive(Debug)]
pub struct Memory {
    shortage: AtomicU8,
    /// Requests for which there is room until the next look; `i64::MAX`: nobody looks.
    room: AtomicI64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { shortage: AtomicU8::new(0), room: AtomicI64::new(i64::MAX) }
    }
}

impl Memory {
    /// Takes the memory of one request, if there is any.
    pub fn take_request(&self) -> bool {
        let unlimited = self.room.load(Ordering::Relaxed) == i64::MAX;
        self.shortage() < Shortage::Full && (unlimited || self.room.fetch_sub(1, Ordering::Relaxed) > 0)
    }

    /// How short it is.
    pub fn shortage(&self) -> Shortage {
        match self.shortage.load(Ordering::Relaxed) {
            0 => Shortage::None,
            1 => Shortage::High,
            _ => Shortage::Full,
        }
    }

    /// Says how short it is.
    pub fn set(&self, shortage: Shortage) {
        self.shortage.store(shortage as u8, Ordering::Relaxed);
    }

    /// So much of a budget is used.
    fn look(&self, used: u64, budget: u64) {
        let before = self.shortage();
        let shortage = Shortage::of(used, budget, before);
        if shortage != before {
            tracing::warn!(used, budget, ?before, ?shortage, "memory");
        }
        self.set(shortage);
        let room = (budget / 100 * Shortage::FULL).saturating_sub(used) / REQUEST;
        self.room.store(i64::try_from(room).unwrap_or(i64::MAX - 1), Ordering::Relaxed);
    }
}

/// Measures for as long as the process lives. On a thread of its own: a runtime that has too much to do would come
/// to it late, and that is when it is needed.
///
/// # Errors
/// When there can be no thread.
pub fn watch(memory: Arc<Memory>, budget: u64, shown: IntGauge) -> io::Result<()> {
    let watch = move || loop {
        match used() {
            Ok(used) => memory.look(used, budget),
            Err(error) => tracing::warn!(%error, "cannot tell how much memory is used"),
        }
        shown.set(memory.shortage() as i64);
        std::thread::sleep(EVERY);
    };
    std::thread::Builder::new().name("memory".into()).spawn(watch).map(drop)
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
    fn no_more_is_taken_than_there_is_room_for() {
        let memory = Memory::default();
        assert!((0..100_000).all(|_| memory.take_request()), "without a budget, any number");
        memory.look(90 << 20, 200 << 20);
        assert_eq!((0..10_000).filter(|_| memory.take_request()).count(), 90 * 8);
        memory.look(190 << 20, 200 << 20);
        assert!(!memory.take_request());
    }

    #[test]
    fn this_process_uses_some() {
        let used = used().unwrap();
        assert!((1 << 20..1 << 40).contains(&used), "{used}");
        assert_eq!(field("anon 1\nsock 4096\nsock_x 5\n", "sock"), Some(4096));
    }
}
