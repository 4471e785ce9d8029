//! How memory is divided between states, and keys and values.

use super::kv::{KvBudget, KvError};
use crate::cache::BLOCK_TOKENS;

/// A budget, divided between states and what remains for keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StateBudget {
    pub(crate) kv: KvBudget,
    /// How many states there are.
    pub(super) states: i32,
    /// Tokens between two snapshots of a sequence that are kept.
    pub(super) interval: usize,
}

/// Divides a budget, where a state takes `state_bytes` and a token's keys and values `token_bytes`.
///
/// Each sequence has a state, and a step writes another one. Where these would take more than half, there are fewer sequences.
/// Of the rest, snapshots get no more than keys and values: that is how far they are apart.
///
/// # Errors
/// It is too small.
pub(crate) fn divide(budget: KvBudget, state_bytes: u64, token_bytes: u64) -> Result<StateBudget, KvError> {
    let (state, token) = (state_bytes.max(1), token_bytes.max(1));
    let block = BLOCK_TOKENS as u64;
    let interval = state.div_ceil(token).div_ceil(block).saturating_mul(block);
    // So many are pinned in half of it; see `pinned_states`.
    let fit = (budget.bytes / 2 / state).saturating_sub(1) / 2;
    let sequences = budget.sequences.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1);
    let pinned = pinned_states(sequences);
    let of_sequences = pinned.saturating_mul(state);
    // As in `Blocks::of`, and a snapshot.
    let blocks = (sequences as u64).saturating_add(1).saturating_mul(block.saturating_mul(token));
    let needed = of_sequences.saturating_add(blocks).saturating_add(state);
    if budget.bytes < needed {
        return Err(KvError::Budget { bytes: budget.bytes, needed });
    }
    let rest = budget.bytes - of_sequences;
    let between = u128::from(interval) * u128::from(token);
    let kv = (u128::from(rest) * between / (between + u128::from(state))) as u64;
    // Rounding must not take away the last block, nor the only snapshot.
    let kv = kv.clamp(blocks, rest - state);
    let states = i32::try_from(pinned + (rest - kv) / state).unwrap_or(i32::MAX);
    let interval = usize::try_from(interval).unwrap_or(usize::MAX);
    Ok(StateBudget { kv: KvBudget { bytes: kv, sequences, ..budget }, states, interval })
}

/// States that may be pinned at the same time: those of sequences, one of which may be about to give its place away, and
/// those that a step writes.
pub fn pinned_states(sequences: usize) -> u64 {
    (sequences as u64).saturating_mul(2).saturating_add(1)
}

#[cfg(test)]
mod tests;
