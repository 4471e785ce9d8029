//! What several measurements of one thing say together.

/// Values of one thing, measured several times.
#[derive(Debug, Default, Clone)]
pub(super) struct Sample(Vec<f64>);

impl Sample {
    pub(super) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The middle one, or the mean of the two in the middle; 0 without any.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => 0.0,
            len if len % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    /// The quotients of what was measured in the same round.
    pub(super) fn ratios(&self, others: &Self) -> Self {
        Self(self.0.iter().zip(&others.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    pub(super) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(super) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Sample(vec![3.0, 1.0, 100.0]).median(), 3.0);
        assert_eq!(Sample(vec![4.0, 1.0]).median(), 2.5);
        assert_eq!(Sample::default().median(), 0.0);
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        let ratios = Sample(vec![4.0, 9.0]).ratios(&Sample(vec![2.0, 3.0]));
        assert_eq!((ratios.min(), ratios.max()), (2.0, 3.0));
    }
}
