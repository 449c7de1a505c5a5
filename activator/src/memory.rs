//! Memory: how much of it is used, and who may have more.
//!
//! What is bounded for each connection and request adds up to more than any machine has; what holds is a budget for
//! the sum. A thread of its own looks at how much the process uses, and lets so much be taken until it looks again:
//! by what begins (connections, streams, requests) and by what is read, from clients and from pods alike. Who finds
//! nothing left is refused if it is something new, and otherwise waits: so the network waits, and memory does not
//! grow. When much of it is taken the thread looks at once, which it would otherwise do ten times a second.
//!
//! Where memory is short it goes from those who keep it to those who are new: [`debts`].

mod debts;

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU8, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use prometheus::IntGauge;

use self::debts::Debts;
pub use self::debts::{ClientId, Debt, GRACE, IDLE, Idle, UNREAD};

/// How often it is looked at if nobody takes much.
const EVERY: Duration = Duration::from_millis(100);
/// And if somebody does: a look takes less than a hundredth of this.
const SOON: Duration = Duration::from_millis(5);
/// How long a request waits for memory.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often whoever waits looks whether there is any, after a while: who has just come looks more often.
pub(crate) const SELDOM: Duration = Duration::from_millis(80);
/// How often somebody may be ended: what the last ones had is given back by then.
const ROUND: Duration = Duration::from_millis(100);

/// Kept back from the budget for what nobody can foresee: the header lists of HTTP/2 that each thread unpacks before
/// anybody sees them, up to 100 of a connection, may be a hundred times what was read.
const AHEAD: u64 = 8 << 20;

/// What things make us keep at once, generously; what they read comes on top.
pub mod cost {
    /// A connection of a client, with what hyper and h2 make for it.
    pub const CONNECTION: usize = 32 * 1024;
    /// A stream of HTTP/2.
    pub const STREAM: usize = 16 * 1024;
    /// A request on its way to a pod, with the connection that it goes on.
    pub const REQUEST: usize = 32 * 1024;
    /// A header of HTTP/2 in memory, which may be one byte of what was read.
    pub const HEADER: usize = 128;
    /// A byte that was read: buffers grow by doubling, and one that is in use may be half empty.
    pub const BYTE: usize = 2;
}

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Shortage {
    /// There is enough.
    #[default]
    None,
    /// Nothing that can be repeated without harm gets any: requests are not held.
    High,
    /// Nothing new gets any: no connection is accepted, no request taken.
    Full,
}

impl Shortage {
    /// Parts of the budget, in percent, from which each begins, as Envoy's overload manager is commonly set up.
    const HIGH: u64 = 80;
    /// Here who keeps some and does not go on is ended, until it is not even high.
    const EVICT: u64 = 85;
    const FULL: u64 = 90;
    /// From here on not even what is under way goes on. In between it gets an eighth of the rest at a time: it has to
    /// go on, or it would never end.
    const WALL: u64 = 95;
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
    /// Bytes that may be taken until the next look; `i64::MAX`: nobody looks, and any number may.
    room: AtomicI64,
    /// How many these were when it was looked.
    granted: AtomicI64,
    /// Those taken of late, which need not be in use yet.
    promised: AtomicI64,
    /// When so little is left, there is a look at once.
    low: AtomicI64,
    /// What is left of it for what is small or new.
    reserve: AtomicI64,
    /// What is left of it when nothing is held any longer.
    unheld: AtomicI64,
    debts: Debts,
    watcher: OnceLock<Thread>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            shortage: AtomicU8::new(0),
            room: AtomicI64::new(i64::MAX),
            granted: AtomicI64::new(0),
            promised: AtomicI64::new(0),
            low: AtomicI64::new(0),
            reserve: AtomicI64::new(0),
            unheld: AtomicI64::new(0),
            debts: Debts::default(),
            watcher: OnceLock::new(),
        }
    }
}

impl Memory {
    /// Takes so many bytes for what is new. `false`: there are none.
    pub fn take(&self, bytes: usize) -> bool {
        let there_is = self.has_more();
        if there_is {
            self.took(bytes);
        }
        there_is
    }

    /// The same, and if there are none just now, waits for a while until there are some.
    pub async fn take_soon(&self, bytes: usize) -> bool {
        let (began, mut pause) = (Instant::now(), SOON);
        while began.elapsed() < PATIENCE {
            tokio::time::sleep(pause).await;
            if self.take(bytes) {
                return true;
            }
            pause = (2 * pause).min(SELDOM);
        }
        false
    }

    /// What is under way has taken so many bytes.
    pub fn took(&self, bytes: usize) {
        if !self.is_bounded() {
            return;
        }
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = self.room.fetch_sub(bytes, Ordering::Relaxed);
        let low = self.low.load(Ordering::Relaxed);
        if before > low && before.saturating_sub(bytes) <= low {
            self.watcher.get().inspect(|watcher| watcher.unpark());
        }
    }

    /// Whether there is any for what is under way; for one who wants little, also of what is kept for those who are new.
    pub fn has_room(&self, little: bool) -> bool {
        let kept = if little { 0 } else { self.reserve.load(Ordering::Relaxed) };
        self.room.load(Ordering::Relaxed) > kept
    }

    /// Whether there is any for what is new.
    pub fn has_more(&self) -> bool {
        self.room.load(Ordering::Relaxed) > 0 && self.shortage() < Shortage::Full
    }

    /// Whether somebody who holds requests of so many bytes may hold one more: no more than is left of what may be
    /// held at all.
    pub fn may_hold(&self, requests: u32, bytes: u64) -> bool {
        let own = u64::from(requests) * cost::REQUEST as u64 + bytes * cost::BYTE as u64;
        let left = self.room.load(Ordering::Relaxed) - self.unheld.load(Ordering::Relaxed);
        self.shortage() == Shortage::None && u64::try_from(left).is_ok_and(|left| own <= left)
    }

    /// Whether there is a budget.
    pub fn is_bounded(&self) -> bool {
        self.room.load(Ordering::Relaxed) < i64::MAX
    }

    /// A client's connection keeps so many bytes, has not gone on since a moment, and wants to know when it has to
    /// end for that.
    pub fn owe(&self, client: ClientId, bytes: u64, since: Instant) -> Debt {
        self.debts.owe(client, bytes, since)
    }

    /// The same of a connection that keeps a little whenever it does nothing.
    pub fn owe_when_idle(&self, client: ClientId, connection: Arc<dyn Idle>) -> Debt {
        self.debts.owe_when_idle(client, connection)
    }

    /// There is no room for one more connection: some end that have done nothing for longest.
    pub fn end_idlest(&self) {
        self.debts.end_idlest();
    }

    /// How short it is.
    pub fn shortage(&self) -> Shortage {
        match self.shortage.load(Ordering::Relaxed) {
            0 => Shortage::None,
            1 => Shortage::High,
            _ => Shortage::Full,
        }
    }

    /// How much those keep who do not go on.
    pub fn owed(&self) -> u64 {
        self.debts.sum()
    }

    /// So much of a budget is used.
    pub fn look(&self, used: u64, budget: u64) {
        let before = self.shortage();
        let shortage = Shortage::of(used, budget, before);
        if shortage != before {
            tracing::warn!(used, budget, ?before, ?shortage, "memory");
        }
        self.shortage.store(shortage as u8, Ordering::Relaxed);
        let below = |percent: u64| {
            i64::try_from((budget / 100 * percent).saturating_sub(used)).unwrap_or(i64::MAX - 1)
        };
        // What was taken since the last look may not be in use yet, and what was taken before that is not forgotten at
        // once: on a busy machine it takes a while until somebody uses what he took.
        let (last, left) = (self.granted.load(Ordering::Relaxed), self.room.load(Ordering::Relaxed));
        let taken = last.saturating_sub(left).max(0);
        let promised = match shortage {
            Shortage::None => 0,
            _ => (self.promised.load(Ordering::Relaxed) + taken) / 8 * 7,
        };
        let room = (below(Shortage::FULL) - promised).max((below(Shortage::WALL) - promised) / 8);
        let reserve = if shortage < Shortage::Full { room / 4 } else { 0 };
        let stored = [
            (&self.promised, promised),
            (&self.unheld, room - below(Shortage::HIGH)),
            (&self.low, room / 2),
            (&self.reserve, reserve),
            (&self.granted, room),
            (&self.room, room),
        ];
        stored.into_iter().for_each(|(place, bytes)| place.store(bytes, Ordering::Relaxed));
    }

    /// Ends so many debts that no shortage is left.
    pub fn collect(&self, used: u64, budget: u64) {
        let need = used.saturating_sub(budget / 100 * (Shortage::HIGH - Shortage::SLACK));
        let freed = self.debts.end(need);
        tracing::debug!(used, budget, need, freed, "memory is short: who kept most for longest was ended");
    }
}

/// Looks for as long as the process lives. On a thread of its own: a runtime that has too much to do would come to
/// it late, and that is when it is needed.
///
/// # Errors
/// When there can be no thread, or nothing tells how much memory is used.
pub fn watch(memory: Arc<Memory>, budget: u64, shown: IntGauge) -> io::Result<()> {
    let (mut usage, budget) = (Usage::open()?, budget.saturating_sub(AHEAD));
    let watch = move || {
        // Nobody else sets it.
        let _ = memory.watcher.set(thread::current());
        let mut last_round = Instant::now();
        loop {
            match usage.read() {
                Ok(used) => {
                    memory.look(used, budget);
                    if used >= budget / 100 * Shortage::EVICT && last_round.elapsed() >= ROUND {
                        memory.collect(used, budget);
                        last_round = Instant::now();
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot tell how much memory is used"),
            }
            shown.set(memory.shortage() as i64);
            thread::sleep(SOON);
            if memory.shortage() == Shortage::None {
                thread::park_timeout(EVERY);
            }
        }
    };
    thread::Builder::new().name("memory".into()).spawn(watch).map(drop)
}

/// Tells how many bytes are used that count against a container's limit and that no pressure of the kernel gives
/// back: the process's own, and what the kernel keeps for it and for its sockets, where a cgroup tells (version 2).
#[derive(Debug)]
struct Usage {
    own: File,
    kernel: Option<File>,
}

impl Usage {
    fn open() -> io::Result<Self> {
        // The root cgroup has no limit, and counts the sockets of the whole machine.
        let limited = std::fs::exists("/sys/fs/cgroup/memory.max")?;
        let kernel = limited.then(|| File::open("/sys/fs/cgroup/memory.stat")).transpose()?;
        Ok(Self { own: File::open("/proc/self/status")?, kernel })
    }

    fn read(&mut self) -> io::Result<u64> {
        let kibibytes = field(&text(&self.own)?, "VmRSS:")
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no VmRSS in /proc/self/status"))?;
        let stat = self.kernel.as_ref().map(text).transpose()?.unwrap_or_default();
        let [kernel, reclaimable, sockets] =
            ["kernel", "slab_reclaimable", "sock"].map(|name| field(&stat, name).unwrap_or(0));
        Ok(kibibytes * 1024 + kernel.saturating_sub(reclaimable) + sockets)
    }
}

/// All of a small file that the kernel makes anew for each reader.
fn text(file: &File) -> io::Result<String> {
    let mut bytes = vec![0; 8192];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
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
        assert!((0..100_000).all(|_| memory.take(cost::REQUEST)), "without a budget, any number");
        assert!(memory.may_hold(u32::MAX, 1 << 50) && !memory.is_bounded());
        memory.look(90 << 20, 200 << 20);
        let reads =
            std::iter::repeat_with(|| memory.took(1 << 20)).take_while(|()| memory.has_room(false)).count();
        assert_eq!(reads + 1, 90 - 22, "a quarter is for what is new");
        assert_eq!((0..10_000).filter(|_| memory.take(1 << 20)).count(), 22);
        assert!(!memory.has_room(true));
    }

    #[test]
    fn what_is_under_way_gets_a_little_more_up_to_the_wall() {
        let (memory, budget) = (Memory::default(), 1000 << 20);
        memory.look(910 << 20, budget);
        assert!(!memory.take(0) && !memory.has_more() && memory.has_room(false));
        memory.took(5 << 20);
        assert!(!memory.has_room(true), "an eighth of 40 MiB, until the next look");
        memory.look(950 << 20, budget);
        assert!(!memory.has_room(true));
        memory.look(800 << 20, budget);
        assert!(memory.take(1), "and all is well again");
    }

    #[test]
    fn what_was_taken_counts_before_it_is_in_use() {
        let (memory, budget) = (Memory::default(), 1000 << 20);
        let taken = |memory: &Memory| (0..).take_while(|_| memory.take(1 << 20)).count();
        let looks = (0..20).map(|_| {
            memory.look(820 << 20, budget);
            taken(&memory)
        });
        let looks: Vec<_> = looks.collect();
        assert_eq!(looks[0], 80, "up to 90 %");
        assert!(looks[1..].iter().sum::<usize>() < 250, "and not 1,520: {looks:?}");
        memory.look(820 << 20, budget);
        (0..100).for_each(|_| memory.look(820 << 20, budget));
        assert!(taken(&memory) >= 79, "nobody has taken anything for a while");
    }

    #[test]
    fn a_flood_of_held_requests_takes_half_of_what_may_be_held() {
        let (memory, budget) = (Memory::default(), 1000 << 20);
        let request = cost::REQUEST as u64 + 32 * 1024 * cost::BYTE as u64;
        // All that is used is held, by one.
        let holds = |requests: u32| {
            memory.look(u64::from(requests) * request, budget);
            memory.may_hold(requests, u64::from(requests) * 32 * 1024)
        };
        let most = (0..).find(|requests| !holds(*requests)).unwrap();
        assert_eq!((u64::from(most) * request) >> 20, 400, "the other half of 80 % is left");
        assert!(memory.may_hold(100, 0), "for others");
        memory.look(budget / 100 * 81, budget);
        assert!(!memory.may_hold(0, 0));
    }

    #[test]
    fn this_process_uses_some() {
        let used = Usage::open().unwrap().read().unwrap();
        assert!((1 << 20..1 << 40).contains(&used), "{used}");
        assert_eq!(field("anon 1\nsock 4096\nsock_x 5\n", "sock"), Some(4096));
    }
}
