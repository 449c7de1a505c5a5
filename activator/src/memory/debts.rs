//! Who keeps memory and does not go on: responses that their clients do not read, heads that have come in part,
//! connections without a request. When there is none left, some of them are ended, for those who want little and give it
//! back at once.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fmt::Debug,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

/// What a response keeps that is not read: what is on its way in us, and its connection to the pod.
pub const UNREAD: u64 = 128 * 1024;

/// What a connection keeps that does nothing.
pub const IDLE: u64 = 10 * 1024;

/// For how long it may: who has just come is about to ask for something, and who was just answered for something else.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// How many of those are ended at once when there is room for no other: a part, and no more than a few, as nginx has it.
const IDLE_PART: usize = 8;
const IDLE_MOST: usize = 32;

/// How long somebody may wait before it is a debt: on any network this is a while, and most never wait so long.
pub const GRACE: Duration = Duration::from_millis(100);

/// Tells client connections apart.
pub type ClientId = usize;

/// A connection that keeps some memory also while it does nothing.
pub trait Idle: Debug + Send + Sync {
    /// Since when it does nothing, if it does.
    fn idle_since(&self) -> Option<Instant>;
}

/// Everybody who keeps memory and waits.
#[derive(Debug, Default)]
pub(super) struct Debts(Arc<Mutex<Ledger>>);

#[derive(Debug, Default)]
struct Ledger {
    next: u64,
    entries: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    client: ClientId,
    bytes: u64,
    since: Since,
    fate: Arc<Fate>,
}

/// Since when somebody has kept memory.
#[derive(Debug)]
enum Since {
    Moment(Instant),
    /// Only while it is idle.
    Idle(Arc<dyn Idle>),
}

impl Since {
    /// For how long, by now.
    fn waited(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Moment(moment) => Some(now.saturating_duration_since(*moment)),
            Self::Idle(connection) => {
                let idle = now.saturating_duration_since(connection.idle_since()?);
                (idle >= IDLE_GRACE).then_some(idle)
            }
        }
    }
}

/// Whether it is to end, and who wants to know.
#[derive(Debug, Default)]
struct Fate {
    ended: AtomicBool,
    waker: AtomicWaker,
}

/// Memory that somebody keeps and waits with. Paid when it is dropped.
#[derive(Debug)]
pub struct Debt {
    number: u64,
    fate: Arc<Fate>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Debt {
    /// Ready when it is to end.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        self.fate.waker.register(cx.waker());
        if self.fate.ended.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        lock(&self.ledger).entries.remove(&self.number);
    }
}

impl Debts {
    /// A client's connection has kept so much since a moment.
    pub(super) fn owe(&self, client: ClientId, bytes: u64, since: Instant) -> Debt {
        self.enter(client, bytes, Since::Moment(since))
    }

    /// A client's connection keeps a little whenever it does nothing.
    pub(super) fn owe_when_idle(&self, client: ClientId, connection: Arc<dyn Idle>) -> Debt {
        self.enter(client, IDLE, Since::Idle(connection))
    }

    fn enter(&self, client: ClientId, bytes: u64, since: Since) -> Debt {
        let fate = Arc::<Fate>::default();
        let mut ledger = lock(&self.0);
        let number = ledger.next;
        ledger.next += 1;
        ledger.entries.insert(number, Entry { client, bytes, since, fate: Arc::clone(&fate) });
        Debt { number, fate, ledger: Arc::clone(&self.0) }
    }

    /// How much all of them keep.
    pub(super) fn sum(&self) -> u64 {
        lock(&self.0).owed(|_| true).map(|owed| owed.bytes).sum()
    }

    /// Ends as many as give back so much; how much that is.
    pub(super) fn end(&self, need: u64) -> u64 {
        let mut ledger = lock(&self.0);
        let ended = worst(ledger.owed(|_| true).collect(), need);
        ledger.end(&ended);
        ended.iter().map(|owed| owed.bytes).sum()
    }

    /// Ends some of those that do nothing, and have done so for longest.
    pub(super) fn end_idlest(&self) {
        let mut ledger = lock(&self.0);
        let mut idle: Vec<_> = ledger.owed(|entry| matches!(entry.since, Since::Idle(_))).collect();
        idle.sort_unstable_by_key(|owed| Reverse(owed.waited));
        idle.truncate(idle.len().div_ceil(IDLE_PART).min(IDLE_MOST));
        ledger.end(&idle);
    }
}

impl Ledger {
    /// The debts of the moment.
    fn owed(&self, which: impl Fn(&Entry) -> bool) -> impl Iterator<Item = Owed> {
        let now = Instant::now();
        self.entries.iter().filter(move |(_, entry)| which(entry)).filter_map(move |(number, entry)| {
            let waited = entry.since.waited(now)?;
            Some(Owed { number: *number, client: entry.client, bytes: entry.bytes, waited })
        })
    }

    fn end(&mut self, ended: &[Owed]) {
        for Owed { number, .. } in ended {
            // Of its own accord it would be gone only once it has seen it, and be ended twice.
            if let Some(Entry { fate, .. }) = self.entries.remove(number) {
                fate.ended.store(true, Ordering::Release);
                fate.waker.wake();
            }
        }
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A debt, as it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owed {
    number: u64,
    client: ClientId,
    bytes: u64,
    waited: Duration,
}

/// Whom to end so that so much is given back: the connection that has kept most for longest, in bytes times time,
/// with everything that it keeps, and then the next one. So one who keeps a lot comes before many who keep little,
/// and among equals the one who has waited longest.
fn worst(mut owed: Vec<Owed>, need: u64) -> Vec<Owed> {
    let weight = |debts: &[Owed]| -> u128 {
        debts.iter().map(|debt| u128::from(debt.bytes) * debt.waited.as_millis()).sum()
    };
    owed.sort_unstable_by_key(|debt| debt.client);
    let mut clients: Vec<_> = owed.chunk_by(|one, other| one.client == other.client).collect();
    clients.sort_by_cached_key(|debts| Reverse(weight(debts)));
    let mut freed = 0;
    let enough = |debts: &&[Owed]| {
        let go_on = freed < need;
        freed += debts.iter().map(|debt| debt.bytes).sum::<u64>();
        go_on
    };
    clients.into_iter().take_while(enough).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn who_has_kept_most_for_longest_is_ended_first() {
        const KIB: u64 = 1024;
        /// Clients with what each debt keeps, in KiB, for how many milliseconds.
        type Row<'a> = (&'a str, &'a [(ClientId, u64, u64)], u64, &'a [ClientId]);
        let rows: [Row<'_>; 9] = [
            ("nobody owes", &[], 100, &[]),
            ("nothing is needed", &[(1, 128, 500)], 0, &[]),
            ("equals: the one that has waited longest", &[(1, 128, 200), (2, 128, 300)], 100, &[2]),
            ("equals in time: the one that keeps more", &[(1, 128, 200), (2, 256, 200)], 100, &[2]),
            ("as many as it takes", &[(1, 128, 200), (2, 128, 300), (3, 128, 100)], 200, &[1, 2]),
            ("all, and it is not enough", &[(1, 128, 200), (2, 128, 300)], 1_000, &[1, 2]),
            (
                "many streams for a while, before one for long",
                &[(1, 128, 900), (2, 128, 250), (2, 128, 250), (2, 128, 250), (2, 128, 250)],
                100,
                &[2],
            ),
            ("a little for very long, before much for a moment", &[(1, 16, 2_000), (2, 128, 200)], 16, &[1]),
            (
                "a connection ends with all that it keeps",
                &[(1, 128, 300), (2, 128, 100), (1, 128, 10)],
                1,
                &[1],
            ),
        ];
        for (what, debts, need, expected) in rows {
            let owed = debts.iter().zip(0..).map(|((client, kib, millis), number)| Owed {
                number,
                client: *client,
                bytes: kib * KIB,
                waited: Duration::from_millis(*millis),
            });
            let owed: Vec<_> = owed.collect();
            let ended = worst(owed.clone(), need * KIB);
            let of_those = owed.iter().filter(|debt| expected.contains(&debt.client)).count();
            assert_eq!(ended.len(), of_those, "{what}: each with everything");
            let mut clients: Vec<_> = ended.iter().map(|debt| debt.client).collect();
            clients.sort_unstable();
            clients.dedup();
            assert_eq!(clients, expected, "{what}");
        }
    }

    #[test]
    fn who_pays_in_time_is_not_ended() {
        let (debts, now) = (Debts::default(), Instant::now());
        let cx = Context::from_waker(Waker::noop());
        let since = |millis| now.checked_sub(Duration::from_millis(millis)).unwrap();
        let (paid, kept, other) =
            (debts.owe(1, 10, since(900)), debts.owe(2, 10, since(500)), debts.owe(3, 10, now));
        drop(paid);
        assert_eq!(debts.end(1), 10);
        assert!(kept.poll_ended(&cx).is_ready() && other.poll_ended(&cx).is_pending());
        assert_eq!(debts.end(100), 10, "nobody is ended twice");
        assert!(other.poll_ended(&cx).is_ready());
        drop((kept, other));
        assert!(lock(&debts.0).entries.is_empty());
    }
}
