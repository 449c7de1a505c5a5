//! Whether more pods are on their way.

use std::time::{Duration, Instant};

/// How many pods were asked for, and when that was last more than before.
#[derive(Debug, Default)]
pub(super) struct Growth {
    wanted: u32,
    rose: Option<Instant>,
}

impl Growth {
    /// Notes how many pods are asked for and how many there are. Returns until when the missing ones are
    /// hoped for: what has not come within `patience` helps none of those who wait now. Pods that were lost
    /// are not growth, or one that fails again and again would look like it.
    pub(super) fn note(
        &mut self,
        wanted: u32,
        ready: u32,
        patience: Duration,
        now: Instant,
    ) -> Option<Instant> {
        if wanted > self.wanted {
            self.rose = Some(now);
        }
        self.wanted = wanted;
        self.rose.filter(|_| ready < wanted).map(|rose| rose + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_what_was_asked_for_anew_and_has_not_come() {
        let patience = Duration::from_secs(30);
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut growth = Growth::default();
        // Seconds; wanted, ready; until when there is hope.
        let rows = [
            (0, 0, 0, None),
            (1, 2, 0, Some(31)),
            (5, 2, 1, Some(31)),
            (6, 4, 2, Some(36)),
            (7, 4, 4, None),
            (8, 4, 3, Some(36)),
            (9, 3, 3, None),
            (10, 4, 3, Some(40)),
        ];
        for (at, wanted, ready, until) in rows {
            let hope = growth.note(wanted, ready, patience, start + at * second);
            assert_eq!(hope, until.map(|until| start + until * second), "at {at}");
        }
    }
}
