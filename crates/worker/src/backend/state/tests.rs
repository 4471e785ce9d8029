#![allow(clippy::unwrap_used)]

use super::*;
use crate::backend::{KvBudget, KvDtype};

const BUDGET: KvBudget =
    KvBudget { bytes: 1 << 20, sequences: 2, dtype: KvDtype::Float32, step_tokens: None };

/// Memory for so many states, with snapshots at multiples of 64 tokens.
fn memory(states: i32) -> StateMemory {
    mlx_ext::init().unwrap();
    let budget = StateBudget { kv: BUDGET, states, interval: 64 };
    StateMemory::new(&StateGeometry { parts: vec![vec![2, 4]] }, budget, 32, false).unwrap()
}

/// Computes a row, the last of a prompt.
fn compute(state: &mut SequenceState, len: usize, new: usize) -> RowStates {
    let row = state.begin(len, new, true).unwrap();
    state.commit(len + new);
    row
}

/// Where the sequence of `len` tokens can be gone on behind.
fn fork_points(state: &SequenceState, len: usize) -> Vec<usize> {
    let mut points: Vec<usize> = (1..=len).map(|at| state.fork_point(at, len)).collect();
    points.dedup();
    points
}

#[test]
fn snapshots_are_kept_behind_whole_blocks() {
    let memory = memory(20);
    let mut state = memory.sequence();
    let row = compute(&mut state, 0, 150);
    assert_eq!(row.snapshots.iter().map(|(after, _)| *after).collect::<Vec<_>>(), [64, 128]);
    assert_eq!(fork_points(&state, 150), [0, 64, 128, 150]);
    // The one behind the last whole block moves on; the regular ones stay.
    for len in 150..170 {
        assert!(compute(&mut state, len, 1).snapshots.is_empty());
    }
    assert_eq!(fork_points(&state, 170), [0, 64, 128, 160, 170]);
    for len in 170..200 {
        compute(&mut state, len, 1);
    }
    assert_eq!(fork_points(&state, 200), [0, 64, 128, 192, 200]);
    // A prompt that ends with a block goes on before its last token, too.
    let mut other = memory.sequence();
    assert_eq!(compute(&mut other, 0, 96).snapshots.len(), 1);
    assert_eq!(fork_points(&other, 96), [0, 64, 96]);
}

#[test]
fn where_prefixes_part_a_snapshot_is_made_once() {
    let memory = memory(20);
    let mut state = memory.sequence();
    state.mark(32);
    compute(&mut state, 0, 90);
    assert_eq!(fork_points(&state, 90), [0, 32, 64, 90]);
}

#[test]
fn a_fork_goes_on_from_a_snapshot_and_changes_nothing_of_its_origin() {
    let memory = memory(20);
    let mut state = memory.sequence();
    let row = compute(&mut state, 0, 100);
    let mut fork = state.resume(64, 100).unwrap();
    assert!(state.resume(65, 100).is_none());
    let of_fork = compute(&mut fork, 64, 3);
    assert_eq!(of_fork.from, Some(row.snapshots[0].1));
    let on = compute(&mut state, 100, 1);
    assert_eq!(on.from, Some(row.to));
    assert_ne!(on.to, of_fork.to);
    assert_eq!(compute(&mut memory.sequence(), 0, 1).from, None);
}

#[test]
fn a_step_that_fails_leaves_the_state_of_before() {
    let memory = memory(3);
    let mut state = memory.sequence();
    let row = compute(&mut state, 0, 5);
    for _ in 0..10 {
        // It is not committed, and takes no memory for good.
        assert_eq!(state.begin(5, 1, true).unwrap().from, Some(row.to));
    }
    assert_eq!(compute(&mut state, 5, 1).from, Some(row.to));
}

#[test]
fn snapshots_make_room_for_sequences_and_are_given_back_with_their_holders() {
    let memory = memory(4);
    let used = memory.used_bytes();
    let mut state = memory.sequence();
    compute(&mut state, 0, 100);
    assert_eq!(used(), 3 * 32, "the current state, and snapshots behind 64 and 96 tokens");
    let kept = state.fork(96, 100);
    drop(state);
    assert_eq!(used(), 2 * 32);
    let mut others: Vec<SequenceState> = (0..3).map(|_| memory.sequence()).collect();
    others.iter_mut().for_each(|other| drop(compute(other, 0, 1)));
    assert_eq!(fork_points(&kept, 96), [0, 96], "the older one was taken away");
    assert!(kept.resume(64, 96).is_none());
    assert!(others[0].begin(1, 1, true).is_ok());
    assert!(kept.resume(96, 96).is_none());
    assert!(matches!(memory.sequence().begin(0, 1, true), Err(KvError::NoRoom(_))));
    assert!(matches!(memory.sequence().begin(7, 1, true), Err(KvError::NoState { len: 7 })));
    drop((others, kept));
    assert_eq!(used(), 0);
}

#[test]
fn what_is_computed_again_is_held_by_those_who_had_lost_it() {
    let memory = memory(4);
    let mut first = memory.sequence();
    compute(&mut first, 0, 40);
    let mut kept = first.fork(32, 40);
    drop(first);
    // All snapshots are taken away.
    let others: Vec<_> = (0..4).map(|_| SharedStates::allocate(&memory.shared).unwrap()).collect();
    assert_eq!(kept.fork_point(32, 32), 0);
    drop(others);
    let mut again = memory.sequence();
    compute(&mut again, 0, 40);
    kept.adopt(&again, 32);
    drop(again);
    assert_eq!(kept.fork_point(32, 32), 32);
}
