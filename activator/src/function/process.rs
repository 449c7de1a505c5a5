//! Bounds of the process as a whole: what all functions together may hold.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::FunctionState;
use std::sync::Arc;

/// What the functions of one process share.
#[derive(Debug)]
pub struct Process {
    max_requests: u64,
    max_bytes: u64,
    requests: AtomicU64,
    bytes: AtomicU64,
    leaving: AtomicBool,
    ending: AtomicBool,
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
            pokes,
        };
        (Arc::new(process), receiver)
    }

    /// Counts a held request in, unless the process is full.
    pub(super) fn enter(&self, bytes: u64) -> bool {
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = requests <= self.max_requests && total <= self.max_bytes;
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

    /// Asks the autoscaler to look at a function.
    pub(super) fn poke(&self, function: &Arc<FunctionState>) {
        // The receiver is gone only while the process ends.
        let _ = self.pokes.send(Arc::clone(function));
    }
}
