//! Bounds of the process as a whole: what all functions together may hold, and each of them at most.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::{FunctionState, PeerView};
use crate::{memory::Memory, slots::Holding};

/// What the functions of one process share.
#[derive(Debug)]
pub struct Process {
    max_requests: u64,
    max_bytes: u64,
    requests: AtomicU64,
    bytes: AtomicU64,
    leaving: AtomicBool,
    ending: AtomicBool,
    view: ArcSwap<PeerView>,
    memory: Arc<Memory>,
    pokes: mpsc::UnboundedSender<Arc<FunctionState>>,
}

/// Functions that want to be looked at, for the autoscaler.
pub type Pokes = mpsc::UnboundedReceiver<Arc<FunctionState>>;

impl Process {
    /// A process that may hold so much; and the other end of its pokes.
    pub fn new(max_requests: u64, max_bytes: u64) -> (Arc<Self>, Pokes) {
        let (pokes, receiver) = mpsc::unbounded_channel();
        let process = Self {
            max_requests,
            max_bytes,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            view: ArcSwap::from_pointee(PeerView::alone()),
            memory: Arc::default(),
            pokes,
        };
        (Arc::new(process), receiver)
    }

    /// How short memory is.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Counts a held request in, unless the process is full, or the function already holds as much as is left of what
    /// may be held, or of memory:
    /// a flood on one function leaves half of all to the others, floods on two a third (the dynamic thresholds
    /// of shared buffers, Choudhury and Hahne, 1998). `own` is what the function holds.
    pub(super) fn enter(&self, bytes: u64, own: Holding) -> bool {
        let requests = self.requests.fetch_add(1, Ordering::Relaxed);
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = u64::from(own.requests) < self.max_requests.saturating_sub(requests)
            && own.bytes.saturating_add(bytes) <= self.max_bytes.saturating_sub(total)
            && self.memory.may_hold(own.requests, own.bytes);
        if !fits {
            self.leave(bytes);
        }
        fits
    }

    /// Counts a held request out.
    pub(super) fn leave(&self, bytes: u64) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Requests held, and their bytes.
    pub fn holding(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// From now on this process takes nothing away: it is about to end.
    pub fn set_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether this process is about to end.
    pub fn leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// From now on nothing is held: the process ends before a slot could be waited for.
    pub(crate) fn set_ending(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Whether nothing is held any longer.
    pub(super) fn ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Who the other activators are.
    pub fn view(&self) -> Arc<PeerView> {
        self.view.load_full()
    }

    /// The other activators have changed.
    pub fn set_view(&self, view: Arc<PeerView>) {
        self.view.store(view);
    }

    /// Asks the autoscaler to look at a function.
    pub(super) fn poke(&self, function: &Arc<FunctionState>) {
        // The receiver is gone only while the process ends.
        let _ = self.pokes.send(Arc::clone(function));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds as many requests of 10 bytes as may be held.
    fn flood(process: &Process) -> Holding {
        let mut own = Holding::default();
        while process.enter(10, own) {
            own = Holding { requests: own.requests + 1, bytes: own.bytes + 10 };
        }
        own
    }

    #[test]
    fn a_flood_takes_half_of_what_is_left() {
        let (process, _pokes) = Process::new(1_000, u64::MAX);
        let taken: Vec<_> = (0..4).map(|_| flood(&process).requests).collect();
        assert_eq!(taken, [500, 250, 125, 63]);
        assert!(process.enter(10, Holding::default()), "and there is always room for one who holds nothing");
    }

    #[test]
    fn bytes_are_shared_in_the_same_way() {
        let (process, _pokes) = Process::new(u64::MAX, 1_000);
        assert_eq!((flood(&process).bytes, flood(&process).bytes), (500, 250));
    }

    #[test]
    fn what_leaves_makes_room() {
        let (process, _pokes) = Process::new(2, 100);
        assert!(process.enter(100, Holding::default()));
        assert!(!process.enter(1, Holding::default()), "bytes");
        process.leave(100);
        assert!(process.enter(50, Holding::default()) && process.enter(50, Holding::default()));
        assert!(!process.enter(0, Holding::default()), "requests");
    }
}
