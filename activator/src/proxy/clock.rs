//! A timer for deadlines that move away all the time: it is set once and, since most of what it watches ends long
//! before, set again only when it fires.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::time::Sleep;

/// A timer that is never set later than need be. Made when it is first asked.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Clock(Option<Pin<Box<Sleep>>>);

impl Clock {
    /// Ready at the deadline, or after. Another poll may have another deadline.
    pub(in crate::proxy) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        if deadline < timer.deadline().into_std() {
            timer.as_mut().reset(deadline.into());
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test]
    async fn the_last_deadline_counts() {
        let (began, mut clock) = (Instant::now(), Clock::default());
        let after = |millis| began + Duration::from_millis(millis);
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            clock.poll(after(if polls == 1 { 5 } else { 20 }), cx)
        })
        .await;
        assert!(Instant::now() >= after(20) && polls > 1, "it has fired at the first deadline, too");
        poll_fn(|cx| clock.poll(after(10), cx)).await;
        poll_fn(|cx| {
            assert!(clock.poll(after(600_000), cx).is_pending());
            clock.poll(after(0), cx)
        })
        .await;
    }
}
