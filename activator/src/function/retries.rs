//! How much of a function's load may be requests that are sent again: a budget, so that retries never multiply the
//! load of a function in trouble.

use std::sync::atomic::{AtomicU32, Ordering};

/// What one repetition costs, in shares of a request.
const COST: u32 = 10;
/// What each answered request pays in: one in five may be repeated.
const SHARE: u32 = 2;
/// Repetitions that may be saved up, so that a quiet function can have some too.
const SAVINGS: u32 = 20 * COST;

/// How many requests of a function may still be repeated.
#[derive(Debug)]
pub struct RetryBudget(AtomicU32);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicU32::new(SAVINGS))
    }
}

impl RetryBudget {
    /// A request was answered.
    pub(crate) fn pay_in(&self) {
        let saved = self.0.load(Ordering::Relaxed);
        // A lost update of another thread costs a fifth of a repetition.
        if saved < SAVINGS {
            self.0.store((saved + SHARE).min(SAVINGS), Ordering::Relaxed);
        }
    }

    /// Whether one more request may be repeated; if so, it is paid for.
    pub(crate) fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(COST)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_in_five_may_be_repeated() {
        let budget = RetryBudget::default();
        let saved = (0..100).filter(|_| budget.spend()).count();
        assert_eq!(saved, 20, "what was saved up");
        (0..50).for_each(|_| budget.pay_in());
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
    }
}
