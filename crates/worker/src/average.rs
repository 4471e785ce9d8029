//! Running averages of what was measured. Pure.

/// What the latest value counts, against all before it.
const WEIGHT: f64 = 0.1;

/// Numbers of rows are told apart by powers of two, up to this one.
const SIZES: usize = 12;

/// An average in which earlier values fade.
#[derive(Clone, Copy, Debug, Default)]
pub struct Average(Option<f64>);

/// A value for each size of a step: the power of two that is at least its number of rows.
#[derive(Clone, Debug, Default)]
pub struct BySize<T>([T; SIZES]);

impl Average {
    /// `None`: there was no value yet.
    pub fn get(&self) -> Option<f64> {
        self.0
    }

    /// Learns one more value.
    pub fn learn(&mut self, new: f64) {
        self.0 = Some(self.0.map_or(new, |known| known + (new - known) * WEIGHT));
    }

    /// Learns one more value, as at most twice the average. `first` stands for the average if there is none.
    pub fn learn_at_most_double(&mut self, new: f64, first: f64) {
        let known = *self.0.get_or_insert(first);
        self.learn(new.min(2.0 * known));
    }
}

impl<T> BySize<T> {
    /// That of steps with about so many rows.
    pub fn get(&self, rows: usize) -> &T {
        &self.0[size(rows)]
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, rows: usize) -> &mut T {
        &mut self.0[size(rows)]
    }

    /// What `known` finds for the nearest number of rows for which it finds something.
    pub fn nearest<V>(&self, rows: usize, known: impl Fn(&T) -> Option<V>) -> Option<V> {
        let size = size(rows);
        let known = self.0.iter().enumerate().filter_map(|(other, value)| Some((other, known(value)?)));
        known.min_by_key(|(other, _)| other.abs_diff(size)).map(|(_, value)| value)
    }
}

/// The exponent of the power of two that is at least `rows`.
fn size(rows: usize) -> usize {
    (rows.next_power_of_two().trailing_zeros() as usize).min(SIZES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_size_answers() {
        let mut sizes = BySize::<Option<char>>::default();
        let nearest = |sizes: &BySize<Option<char>>, rows| sizes.nearest(rows, |value| *value);
        assert_eq!(nearest(&sizes, 1), None);
        *sizes.get_mut(4) = Some('a');
        *sizes.get_mut(64) = Some('b');
        let found = [0, 1, 3, 4, 17, 33, usize::MAX / 2].map(|rows| nearest(&sizes, rows));
        assert_eq!(found, ['a', 'a', 'a', 'a', 'b', 'b', 'b'].map(Some));
        assert_eq!([2, 3, 4, 5].map(|rows| *sizes.get(rows)), [None, Some('a'), Some('a'), None]);
    }

    #[test]
    fn earlier_values_fade() {
        let mut average = Average::default();
        average.learn(10.0);
        average.learn(20.0);
        assert_eq!(average.get(), Some(11.0));
        average.learn_at_most_double(1000.0, 1.0);
        assert!(average.get().is_some_and(|average| (average - 12.1).abs() < 1e-9));
        let mut new = Average::default();
        new.learn_at_most_double(1000.0, 1.0);
        assert_eq!(new.get(), Some(1.1));
    }
}
