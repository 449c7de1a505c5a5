//! Outcomes of all rounds, and ratios of them.

use std::collections::BTreeMap;
use std::fmt;

use super::driver::Outcome;
use super::loads::Load;
use super::peers::Peer;

/// Outcomes by load and peer, in order of the rounds.
#[derive(Debug, Default)]
pub(super) struct Results(BTreeMap<(Load, Peer), Vec<Outcome>>);

/// Of so many numbers the range is that of the middle half: of more, the extremes are of ever less likely events.
const MANY: usize = 20;

/// A number that was measured several times: the median, and the range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) low: f64,
    pub(super) median: f64,
    pub(super) high: f64,
}

impl Results {
    pub(super) fn add(&mut self, load: Load, peer: Peer, outcome: Outcome) {
        self.0.entry((load, peer)).or_default().push(outcome);
    }

    pub(super) fn loads(&self) -> Vec<Load> {
        let mut loads: Vec<_> = self.0.keys().map(|(load, _)| *load).collect();
        loads.dedup();
        loads
    }

    pub(super) fn peers(&self, load: Load) -> Vec<Peer> {
        self.0.keys().filter(|(other, _)| *other == load).map(|(_, peer)| *peer).collect()
    }

    /// A number of each round.
    pub(super) fn each(&self, load: Load, peer: Peer, number: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.0.get(&(load, peer)).map_or_else(Vec::new, |outcomes| outcomes.iter().map(number).collect())
    }

    /// The median of a number.
    pub(super) fn median(&self, load: Load, peer: Peer, number: impl Fn(&Outcome) -> f64) -> f64 {
        Spread::of(self.each(load, peer, number)).median
    }

    /// Ratio of a peer's number to HAProxy's, round by round.
    pub(super) fn to_haproxy(
        &self,
        load: Load,
        peer: Peer,
        number: impl Fn(&Outcome) -> f64 + Copy,
    ) -> Spread {
        let haproxy = self.each(load, Peer::Haproxy, number);
        Spread::of(self.each(load, peer, number).iter().zip(haproxy).map(|(own, other)| own / other))
    }

    /// What a peer adds to a number of the way without proxy, round by round.
    pub(super) fn added(&self, load: Load, peer: Peer, number: impl Fn(&Outcome) -> f64 + Copy) -> Vec<f64> {
        let direct = self.each(load, Peer::Direct, number);
        self.each(load, peer, number).iter().zip(direct).map(|(own, direct)| own - direct).collect()
    }

    /// Ratio of what a peer adds to what HAProxy adds, round by round.
    pub(super) fn added_to_haproxy(
        &self,
        load: Load,
        peer: Peer,
        number: impl Fn(&Outcome) -> f64 + Copy,
    ) -> Spread {
        let haproxy = self.added(load, Peer::Haproxy, number);
        Spread::of(self.added(load, peer, number).iter().zip(haproxy).map(|(own, other)| own / other))
    }
}

impl Spread {
    pub(super) fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut numbers: Vec<_> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        let at = |index: usize| numbers.get(index).copied().unwrap_or(f64::NAN);
        let (last, middle) = (numbers.len().saturating_sub(1), numbers.len() / 2);
        let median = if numbers.len() % 2 == 1 { at(middle) } else { (at(last / 2) + at(middle)) / 2.0 };
        let edge = if numbers.len() < MANY { 0 } else { numbers.len() / 4 };
        Self { low: at(edge), median, high: at(last - edge) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_many_is_that_of_the_middle_half() {
        let many = Spread::of((1..=41).map(f64::from));
        assert_eq!(many, Spread { low: 11.0, median: 21.0, high: 31.0 });
    }

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { low: 1.0, median: 2.0, high: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Spread { low: 1.0, median: 2.5, high: 4.0 });
        assert!(Spread::of([]).median.is_nan());
    }
}
