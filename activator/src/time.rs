//! The time, looked at once for each turn of a connection.
//!
//! A request asks for the time a dozen times, most of them within microseconds, and each look costs as much as a
//! short function. So whoever drives a connection looks once for each time that it is polled, and what it calls
//! takes that for the present, as nginx and HAProxy do in each turn of their event loops. Outside of such a turn
//! it is the clock's time.

use std::{cell::Cell, time::Instant};

thread_local! {
    static TURN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The time: when the present turn began, or else the clock's.
pub(crate) fn now() -> Instant {
    TURN.get().unwrap_or_else(Instant::now)
}

/// Takes a turn: what is called from here gets the same time.
pub(crate) fn turn<R>(poll: impl FnOnce() -> R) -> R {
    let _ends = Turn { outer: TURN.replace(Some(Instant::now())) };
    poll()
}

/// Ends the turn, also when it panics: the thread goes on.
struct Turn {
    outer: Option<Instant>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURN.set(self.outer);
    }
}

#[cfg(test)]
mod tests {
    use std::{panic::catch_unwind, thread::sleep, time::Duration};

    use super::*;

    const BREATH: Duration = Duration::from_millis(2);

    fn pass() -> Instant {
        let before = now();
        sleep(BREATH);
        before
    }

    #[test]
    fn time_stands_still_within_a_turn() {
        let within = turn(|| (pass(), now()));
        assert_eq!(within.0, within.1);
        assert!(pass() + BREATH <= now(), "it goes on outside");
    }

    #[test]
    fn a_turn_ends_with_a_panic() {
        assert!(catch_unwind(|| turn(|| panic!("in a turn"))).is_err());
        assert!(pass() + BREATH <= now());
    }
}
