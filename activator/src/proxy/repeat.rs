//! Whether a request that a pod may have seen can be sent again.
//!
//! Only if its method is idempotent (RFC 9110, section 9.2.2), it has no body, and no byte of a response
//! has come; and only within a budget, so that retries never multiply the load of a function in trouble.

use std::sync::atomic::{AtomicU32, Ordering};

use http::{Method, Request, request::Parts};
use http_body::Body as _;

use super::body::RequestBody;

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
    pub(super) fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(COST)).is_ok()
    }
}

/// A copy of a request that could be sent again.
pub(super) fn copy(request: &Request<RequestBody>) -> Option<Parts> {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    );
    if !idempotent || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    *copy.version_mut() = request.version();
    Some(copy.into_parts().0)
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
