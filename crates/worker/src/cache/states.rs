//! A pool of equal states with reference counts, of which those that nobody goes on from may be taken away.

use thiserror::Error;

/// States of sequences. A state is never changed: who goes on writes another one.
///
/// A state that a sequence goes on from is *pinned*. Others are *snapshots*, which later sequences may go on from; where no
/// state is free, the snapshot that was not used for longest is taken away, and whoever holds it finds that out.
///
/// Blocks of layers with windows are counted in the same way: who may still write to one has pinned it, and prefixes hold it.
#[derive(Debug)]
pub struct StatePool {
    states: Vec<State>,
    /// States that are neither pinned nor held. The last one freed is the first one allocated.
    free: Vec<i32>,
    /// Counts uses.
    clock: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// How many sequences and steps need it.
    pins: u32,
    /// How many hold it as a snapshot.
    holders: u32,
    /// Counts what it was used for.
    generation: u64,
    last_used: u64,
}

/// Names what a state was when it was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Which one it was.
    state: i32,
    generation: u64,
}

/// Every state is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no memory for states of sequences is left")]
pub struct OutOfStates;

impl StatePool {
    /// A pool of `states` free states, which are numbered from 0.
    pub fn new(states: i32) -> Self {
        let states = states.max(0);
        let all = vec![State::default(); states.unsigned_abs() as usize];
        Self { states: all, free: (0..states).rev().collect(), clock: 0 }
    }

    /// How many states are pinned or held.
    pub fn used(&self) -> usize {
        self.states.len() - self.free.len()
    }

    /// A state that nobody uses, pinned once. It may be taken away from those who hold it as a snapshot.
    ///
    /// # Errors
    /// All are pinned.
    pub fn allocate(&mut self) -> Result<i32, OutOfStates> {
        let found = self.free.pop().or_else(|| self.oldest_snapshot()).ok_or(OutOfStates)?;
        let last_used = self.tick();
        let state = &mut self.states[index(found)];
        *state = State { pins: 1, holders: 0, generation: state.generation + 1, last_used };
        Ok(found)
    }

    /// Pins a state that is pinned once more.
    ///
    /// # Panics
    /// If it is not pinned, or not in the pool.
    pub fn pin(&mut self, state: i32) {
        let state = &mut self.states[index(state)];
        assert!(state.pins > 0, "a state that is not pinned may be another one by now");
        state.pins += 1;
    }

    /// The end of a pin.
    ///
    /// # Panics
    /// If it is not pinned, or not in the pool.
    pub fn unpin(&mut self, state: i32) {
        let of = &mut self.states[index(state)];
        assert!(of.pins > 0, "state {state} is not pinned");
        of.pins -= 1;
        self.free_if_unused(state);
    }

    /// Holds a pinned state as a snapshot.
    ///
    /// # Panics
    /// If it is not pinned, or not in the pool.
    pub fn hold(&mut self, state: i32) -> Snapshot {
        let last_used = self.tick();
        let of = &mut self.states[index(state)];
        assert!(of.pins > 0, "state {state} is not pinned");
        of.holders += 1;
        of.last_used = last_used;
        Snapshot { state, generation: of.generation }
    }

    /// Whether a state is pinned or held more than once.
    pub fn is_shared(&self, state: i32) -> bool {
        let of = &self.states[index(state)];
        of.pins + of.holders > 1
    }

    /// Whether the snapshot is still there.
    pub fn has(&self, snapshot: Snapshot) -> bool {
        self.states[index(snapshot.state)].generation == snapshot.generation
    }

    /// The state of a snapshot, if it is still there.
    pub fn state_of(&self, snapshot: Snapshot) -> Option<i32> {
        self.has(snapshot).then_some(snapshot.state)
    }

    /// One more holds the snapshot, if it is still there.
    pub fn share(&mut self, snapshot: Snapshot) {
        if self.has(snapshot) {
            self.states[index(snapshot.state)].holders += 1;
        }
    }

    /// One less holds the snapshot, if it is still there.
    pub fn release(&mut self, snapshot: Snapshot) {
        if self.has(snapshot) {
            let of = &mut self.states[index(snapshot.state)];
            of.holders = of.holders.saturating_sub(1);
            self.free_if_unused(snapshot.state);
        }
    }

    /// Pins a snapshot, if it is still there. It counts as used now.
    pub fn pin_snapshot(&mut self, snapshot: Snapshot) -> Option<i32> {
        if !self.has(snapshot) {
            return None;
        }
        let last_used = self.tick();
        let of = &mut self.states[index(snapshot.state)];
        of.pins += 1;
        of.last_used = last_used;
        Some(snapshot.state)
    }

    fn oldest_snapshot(&self) -> Option<i32> {
        let unpinned = self.states.iter().zip(0..).filter(|(state, _)| state.pins == 0);
        unpinned.min_by_key(|(state, _)| state.last_used).map(|(_, index)| index)
    }

    fn free_if_unused(&mut self, state: i32) {
        let of = &mut self.states[index(state)];
        if of.pins == 0 && of.holders == 0 {
            // Nobody can name it any more.
            of.generation += 1;
            self.free.push(state);
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

/// What is negative lies beyond every pool.
fn index(state: i32) -> usize {
    usize::try_from(state).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_pinned_state_is_nobody_elses() {
        let mut pool = StatePool::new(2);
        let (one, two) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        assert_ne!(one, two);
        assert_eq!((pool.allocate(), pool.used()), (Err(OutOfStates), 2));
        pool.pin(one);
        pool.unpin(one);
        assert_eq!(pool.allocate(), Err(OutOfStates));
        pool.unpin(one);
        assert_eq!((pool.used(), pool.allocate()), (1, Ok(one)));
    }

    #[test]
    fn the_snapshot_that_was_not_used_for_longest_is_taken_away() {
        let mut pool = StatePool::new(3);
        let states: Vec<i32> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        let held: Vec<Snapshot> = states.iter().map(|&state| pool.hold(state)).collect();
        states.iter().for_each(|&state| pool.unpin(state));
        assert_eq!(pool.used(), 3, "snapshots take memory");
        // The first is used again.
        let again = pool.pin_snapshot(held[0]).unwrap();
        pool.unpin(again);
        assert_eq!(pool.allocate(), Ok(states[1]));
        assert_eq!([0, 1, 2].map(|which| pool.has(held[which])), [true, false, true]);
        assert_eq!(pool.pin_snapshot(held[1]), None);
        // Who held it changes nothing of what it is now.
        pool.release(held[1]);
        pool.share(held[1]);
        assert_eq!(pool.allocate(), Ok(states[2]));
        assert_eq!(pool.allocate(), Ok(states[0]));
        assert_eq!(pool.allocate(), Err(OutOfStates));
    }

    #[test]
    fn a_state_is_free_when_the_last_holder_has_gone() {
        let mut pool = StatePool::new(1);
        let state = pool.allocate().unwrap();
        let snapshot = pool.hold(state);
        assert!(pool.is_shared(state), "who has pinned it is not the only one");
        pool.share(snapshot);
        pool.unpin(state);
        pool.release(snapshot);
        assert!(!pool.is_shared(state) && pool.has(snapshot) && pool.used() == 1);
        pool.release(snapshot);
        assert!(!pool.has(snapshot) && pool.used() == 0);
    }
}
