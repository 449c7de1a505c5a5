//! How long a client may still keep us waiting: a minimum rate, with a grace for those who begin slowly.

use std::time::Duration;

/// The least that a client must move of a body while we wait for it, in either direction.
///
/// Kestrel has the same for both (`MinRequestBodyDataRate`, `MinResponseDataRate`: 240 bytes a second after a
/// grace of 5 s), Apache's mod_reqtimeout for requests. What HAProxy and nginx have, a longest silence, alone
/// lets a client hold a slot for hours with a byte now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes a second, on average; 0: any rate will do.
    pub bytes_per_second: u64,
    /// What a client has before the rate counts.
    pub grace: Duration,
    /// The longest that a client may be silent, whatever it has moved before.
    pub stall: Duration,
}

impl Default for MinRate {
    fn default() -> Self {
        Self { bytes_per_second: 240, grace: Duration::from_secs(5), stall: Duration::from_secs(60) }
    }
}

/// What is left of a client's time. Waiting spends it, bytes bring it back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    rate: MinRate,
    left: Duration,
}

impl Patience {
    /// The time of a client from which nothing has come yet.
    pub(super) fn new(rate: MinRate) -> Self {
        let left = if rate.bytes_per_second == 0 { rate.stall } else { rate.grace.min(rate.stall) };
        Self { rate, left }
    }

    /// We have waited.
    pub(super) fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// Bytes have moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        let earned = (bytes as u64 * 1_000_000).checked_div(self.rate.bytes_per_second);
        let earned = earned.map_or(self.rate.stall, Duration::from_micros);
        self.left = self.left.saturating_add(earned).min(self.rate.stall);
    }

    /// How much longer we wait.
    pub(super) fn left(&self) -> Duration {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds until a client that sends `bytes` every `seconds` is given up; `None`: it is not, for an hour.
    fn given_up(rate: MinRate, bytes: usize, seconds: u64) -> Option<u64> {
        let mut patience = Patience::new(rate);
        for round in 0..3_600 / seconds {
            if patience.left() < Duration::from_secs(seconds) {
                return Some(round * seconds + patience.left().as_secs());
            }
            patience.waited(Duration::from_secs(seconds));
            patience.moved(bytes);
        }
        None
    }

    #[test]
    fn who_is_too_slow_is_given_up() {
        let rate = MinRate::default();
        let any = MinRate { bytes_per_second: 0, ..rate };
        let rows = [
            ("nothing at all", rate, 0, 1, Some(5)),
            ("a byte a second", rate, 1, 1, Some(5)),
            ("just the rate", rate, 240, 1, None),
            ("just the rate, in lumps that the grace allows", rate, 1_200, 5, None),
            ("half the rate", rate, 120, 1, Some(9)),
            ("fast, and a pause below the longest silence", rate, 1 << 20, 50, Some(5)),
            ("any rate, but not silent", any, 1, 59, None),
            ("any rate, too long silent", any, 1, 61, Some(60)),
        ];
        for (what, rate, bytes, seconds, expected) in rows {
            assert_eq!(given_up(rate, bytes, seconds), expected, "{what}");
        }
    }

    #[test]
    fn a_fast_start_buys_no_more_than_the_longest_silence() {
        let mut patience = Patience::new(MinRate::default());
        patience.moved(1 << 30);
        assert_eq!(patience.left(), Duration::from_secs(60));
    }
}
