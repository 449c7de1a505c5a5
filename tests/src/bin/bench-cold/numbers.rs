//! Order statistics of a few measurements.

/// Measurements in order.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(Vec<f64>);

impl Numbers {
    pub(crate) fn new(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        Self(numbers)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest number that at least `percent` of all do not exceed (nearest rank).
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let numbers = Numbers::new([5.0, 1.0, 4.0, 2.0, 3.0]);
        for (percent, expected) in [(0.0, 1.0), (20.0, 1.0), (50.0, 3.0), (95.0, 5.0), (100.0, 5.0)] {
            assert_eq!(numbers.percentile(percent), expected, "{percent}");
        }
        assert!(Numbers::new([]).percentile(50.0).is_nan());
    }
}
