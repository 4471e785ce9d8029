//! What was compiled lately, for the next request that asks for the same: agents send one schema again and again.

use std::sync::Arc;

use super::{compiler::Prototype, grammar::Demand};

/// Most that are kept, and most bytes of them, as far as these can be estimated.
const BOUNDS: Bounds = Bounds { entries: 128, bytes: 32 << 20 };

/// What came of compiling a constraint: what its outputs begin with, or why there are none. Both are the same whenever it
/// is compiled.
pub(super) type Outcome = Result<Arc<Prototype>, String>;

/// Outcomes by what was asked for. The least recently used go first.
#[derive(Debug)]
pub(super) struct Cache<T = Outcome> {
    bounds: Bounds,
    /// The one that was used last is the last.
    entries: Vec<Entry<T>>,
    /// Of all of them.
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    entries: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Entry<T> {
    demand: Demand,
    outcome: T,
    bytes: usize,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { bounds: BOUNDS, entries: Vec::new(), bytes: 0 }
    }
}

impl<T: Clone> Cache<T> {
    /// What came of compiling this, if that is known still.
    pub(super) fn get(&mut self, demand: &Demand) -> Option<T> {
        let index = self.entries.iter().position(|entry| entry.demand == *demand)?;
        self.entries[index..].rotate_left(1);
        self.entries.last().map(|entry| entry.outcome.clone())
    }

    /// Keeps what came of compiling this, in about so many `bytes`, unless that alone is too much.
    pub(super) fn insert(&mut self, demand: Demand, outcome: T, bytes: usize) {
        // Another thread may have compiled it meanwhile.
        if let Some(index) = self.entries.iter().position(|entry| entry.demand == demand) {
            self.bytes -= self.entries.remove(index).bytes;
        }
        if bytes > self.bounds.bytes {
            return;
        }
        self.entries.push(Entry { demand, outcome, bytes });
        self.bytes += bytes;
        while self.entries.len() > self.bounds.entries || self.bytes > self.bounds.bytes {
            self.bytes -= self.entries.remove(0).bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::message::ConstraintKind;

    use super::*;

    fn cache(entries: usize, bytes: usize) -> Cache<u32> {
        Cache { bounds: Bounds { entries, bytes }, ..Cache::default() }
    }

    fn kind(n: u32) -> Demand {
        Demand { kind: ConstraintKind::Regex(n.to_string()), around: None }
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut cache = cache(2, 100);
        cache.insert(kind(1), 1, 10);
        cache.insert(kind(2), 2, 10);
        assert_eq!(cache.get(&kind(1)), Some(1));
        cache.insert(kind(3), 3, 10);
        assert_eq!([1, 2, 3].map(|n| cache.get(&kind(n))), [Some(1), None, Some(3)]);
        cache.insert(kind(4), 4, 95);
        assert_eq!([1, 3, 4].map(|n| cache.get(&kind(n))), [None, None, Some(4)]);
        cache.insert(kind(5), 5, 101);
        assert_eq!([4, 5].map(|n| cache.get(&kind(n))), [Some(4), None], "too large to be kept at all");
    }

    #[test]
    fn a_text_means_another_thing_in_another_kind() {
        let mut cache = cache(9, 100);
        cache.insert(kind(1), 1, 1);
        let others = [ConstraintKind::Grammar("1".into()), ConstraintKind::Choice(vec!["1".into()])];
        let others = others.map(|kind| Demand { kind, around: None });
        for other in others.into_iter().chain([Demand { around: Some("start: @answer"), ..kind(1) }]) {
            assert_eq!(cache.get(&other), None);
        }
    }

    proptest! {
        #[test]
        fn bounds_hold_and_the_latest_is_there(steps in prop::collection::vec((0..8u32, any::<bool>(), 0..60usize), 0..80)) {
            let mut cache = cache(4, 100);
            // Of a number that is found, the last value that was put there.
            let mut values = [None; 8];
            for (at, (n, inserts, bytes)) in (0..).zip(steps) {
                if inserts {
                    cache.insert(kind(n), at, bytes);
                    values[n as usize] = Some(at);
                    prop_assert_eq!(cache.entries.last().map(|entry| entry.outcome), Some(at));
                } else if let Some(found) = cache.get(&kind(n)) {
                    prop_assert_eq!(Some(found), values[n as usize]);
                }
                prop_assert!(cache.entries.len() <= 4 && cache.bytes <= 100);
                prop_assert_eq!(cache.bytes, cache.entries.iter().map(|entry| entry.bytes).sum::<usize>());
            }
        }
    }
}
