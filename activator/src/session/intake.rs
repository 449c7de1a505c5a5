//! How much memory the bodies that are being received may take: in all, so that it is bounded, and for each
//! function, so that one that sends much or slowly leaves room for the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pilotlight_crds::FunctionKey;

/// Bodies of the largest size that one function may send at once; with the default limit 16 MiB.
const EACH: usize = 64;
/// Bodies of the largest size that all functions together may send at once; with the default limit 128 MiB.
const ALL: usize = 512;
/// What a request takes beside its body.
const OVERHEAD: usize = 1 << 10;

/// Counts the bytes that are being received.
#[derive(Debug)]
pub(super) struct Intake {
    /// The largest body that is taken.
    limit: usize,
    bytes: Mutex<Bytes>,
}

#[derive(Debug, Default)]
struct Bytes {
    all: usize,
    /// Functions that send nothing have no entry.
    by_function: HashMap<FunctionKey, usize>,
}

impl Intake {
    /// Room for bodies of up to `limit` bytes.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, bytes: Mutex::default() })
    }

    /// The largest body that is taken.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// Leave to receive a body of `function`, of the largest size unless it announced one; nothing if there
    /// is no room.
    pub(super) fn admit(
        self: &Arc<Self>,
        function: &FunctionKey,
        announced: Option<usize>,
    ) -> Option<Permit> {
        let largest = self.limit.saturating_add(OVERHEAD);
        let size = announced.map_or(largest, |bytes| bytes.saturating_add(OVERHEAD).min(largest));
        let mut bytes = self.lock();
        let own = bytes.by_function.get(function).copied().unwrap_or(0) + size;
        let all = bytes.all + size;
        if own > largest.saturating_mul(EACH) || all > largest.saturating_mul(ALL) {
            return None;
        }
        bytes.by_function.insert(function.clone(), own);
        bytes.all = all;
        Some(Permit { intake: self.clone(), function: function.clone(), size })
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to receive one body, given back on drop.
#[derive(Debug)]
pub(super) struct Permit {
    intake: Arc<Intake>,
    function: FunctionKey,
    size: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut bytes = self.intake.lock();
        bytes.all -= self.size;
        if let Some(own) = bytes.by_function.get_mut(&self.function) {
            *own -= self.size;
            if *own == 0 {
                bytes.by_function.remove(&self.function);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 256 << 10;

    fn function(name: &str) -> FunctionKey {
        FunctionKey::new("demo", name)
    }

    #[test]
    fn a_flood_of_one_function_leaves_room_for_others() {
        let intake = Intake::new(LIMIT);
        let flood: Vec<Permit> =
            (0..EACH * 2).filter_map(|_| intake.admit(&function("loud"), None)).collect();
        assert_eq!(flood.len(), EACH);
        assert!(intake.admit(&function("quiet"), Some(LIMIT)).is_some());

        let others: Vec<Permit> =
            (0..ALL).filter_map(|number| intake.admit(&function(&format!("f{number}")), None)).collect();
        assert_eq!(flood.len() + others.len(), ALL, "bounded in all");
        drop((flood, others));
        let left = intake.lock();
        assert!(left.all == 0 && left.by_function.is_empty(), "nothing is left behind: {left:?}");
    }

    #[test]
    fn small_bodies_take_little_room() {
        let intake = Intake::new(LIMIT);
        let small: Vec<Permit> =
            (0..10_000).filter_map(|_| intake.admit(&function("busy"), Some(100))).collect();
        assert_eq!(small.len(), 10_000);
    }
}
