//! One turn of a connection whose streams are part of its task: the streams wake the connection, and it wakes them.
//!
//! Whoever is woken during the turn is polled in the same turn. Only what wakes one of them from outside wakes the task:
//! otherwise the task would be polled once more for each message that passes between its own parts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// How often the parts may wake each other in one turn. Other tasks want to run as well; and what tokio holds back for
/// their sake says at once that it is ready again.
const ROUNDS: usize = 8;

/// The turns of one connection.
#[derive(Debug)]
pub(super) struct Turns {
    task: Arc<Task>,
    /// Its streams.
    pub(super) streams: Part,
    /// What they are streams of.
    pub(super) connection: Part,
}

/// What takes part in a turn.
#[derive(Debug)]
pub(super) struct Part {
    woken: Arc<Woken>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Task {
    waker: AtomicWaker,
    /// Whether a turn is under way.
    turning: AtomicBool,
    /// Whether it is to end, although there is more to do.
    paused: AtomicBool,
}

#[derive(Debug)]
struct Woken {
    task: Arc<Task>,
    woken: AtomicBool,
}

impl Turns {
    /// Nobody was woken yet.
    pub(super) fn new() -> Self {
        let task = Arc::<Task>::default();
        let (streams, connection) = (Part::new(&task), Part::new(&task));
        Self { task, streams, connection }
    }

    /// Takes a turn: polls until there is an outcome, or until nobody is woken any longer.
    pub(super) fn take<T>(&self, cx: &Context<'_>, mut poll: impl FnMut() -> Poll<T>) -> Poll<T> {
        self.task.waker.register(cx.waker());
        self.task.turning.store(true, Ordering::SeqCst);
        let mut rounds = (0..ROUNDS).map(|_| poll());
        let ends = |outcome: &Poll<T>| outcome.is_ready() || self.is_paused() || !self.any_woken();
        let outcome = rounds.find(ends).unwrap_or(Poll::Pending);
        self.task.turning.store(false, Ordering::SeqCst);
        let paused = self.task.paused.swap(false, Ordering::Relaxed);
        if outcome.is_pending() && (paused || self.any_woken()) {
            cx.waker().wake_by_ref();
        }
        outcome
    }

    /// Ends the turn after this poll, for the sake of others. There is more to do in the next one.
    pub(super) fn pause(&self) {
        self.task.paused.store(true, Ordering::Relaxed);
    }

    fn is_paused(&self) -> bool {
        self.task.paused.load(Ordering::Relaxed)
    }

    fn any_woken(&self) -> bool {
        [&self.streams, &self.connection].iter().any(|part| part.woken.woken.load(Ordering::SeqCst))
    }
}

impl Part {
    fn new(task: &Arc<Task>) -> Self {
        let woken = Arc::new(Woken { task: Arc::clone(task), woken: AtomicBool::new(false) });
        Self { waker: Waker::from(Arc::clone(&woken)), woken }
    }

    /// Polls it, for all that it was woken for.
    pub(super) fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.woken.woken.store(false, Ordering::SeqCst);
        poll(&mut Context::from_waker(&self.waker))
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.task.turning.load(Ordering::SeqCst) {
            self.task.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a turn in which each poll wakes who it says. How many polls that makes, and how often the task is woken by
    /// the end of it.
    fn turn(turns: &Turns, wakes: impl Fn(usize) -> bool, ends: bool) -> (usize, usize) {
        let woken = Arc::<Count>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let mut polls = 0;
        let _ = turns.take(&Context::from_waker(&waker), || {
            polls += 1;
            turns.streams.poll(|_| ());
            turns.connection.poll(|_| ());
            if wakes(polls) {
                turns.streams.waker.wake_by_ref();
            }
            if ends { Poll::Ready(()) } else { Poll::Pending }
        });
        (polls, woken.0.load(Ordering::Relaxed))
    }

    #[test]
    fn who_is_woken_in_a_turn_is_polled_in_it() {
        let turns = Turns::new();
        assert_eq!(turn(&turns, |_| false, false), (1, 0), "nobody is woken");
        assert_eq!(turn(&turns, |polls| polls < 3, false), (3, 0));
        assert_eq!(turn(&turns, |_| true, false), (ROUNDS, 1), "others want to run as well");
        assert_eq!(turn(&turns, |_| true, true), (1, 0), "it has ended");
    }

    #[test]
    fn a_turn_that_is_paused_goes_on_in_the_next() {
        let (turns, woken) = (Turns::new(), Arc::<Count>::default());
        let (waker, mut polls) = (Waker::from(Arc::clone(&woken)), 0);
        let _: Poll<()> = turns.take(&Context::from_waker(&waker), || {
            polls += 1;
            turns.streams.waker.wake_by_ref();
            turns.pause();
            Poll::Pending
        });
        assert_eq!((polls, woken.0.load(Ordering::Relaxed)), (1, 1));
        assert_eq!(turn(&turns, |_| false, false), (1, 0), "it is paused no longer");
    }

    #[test]
    fn who_is_woken_between_turns_wakes_the_task() {
        let (turns, woken) = (Turns::new(), Arc::<Count>::default());
        let waker = Waker::from(Arc::clone(&woken));
        let _: Poll<()> = turns.take(&Context::from_waker(&waker), || Poll::Pending);
        turns.connection.waker.wake_by_ref();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    /// The streams wake the connection, which is polled behind them.
    #[test]
    fn who_is_polled_next_needs_no_other_round() {
        let (turns, mut polls) = (Turns::new(), 0);
        let _: Poll<()> = turns.take(&Context::from_waker(Waker::noop()), || {
            polls += 1;
            turns.streams.poll(|_| turns.connection.waker.wake_by_ref());
            turns.connection.poll(|_| ());
            Poll::Pending
        });
        assert_eq!(polls, 1);
    }
}
