//! How memory for keys and values is divided between layers that keep everything and those with a window. Pure.
//!
//! A sequence needs memory of the former for each of its tokens, and of the latter for its *stretch* at most: the window, and what
//! a step appends. So the two are divided as a sequence of some length needs them, which is [`STRETCHES`] stretches long, or as long as
//! the context if that is less: there both run out at the same time. Of shorter sequences fewer fit than if everything was
//! kept everywhere, since the windows' part runs out first; of longer ones more. Layers with windows get no more than all
//! sequences together can use.

use super::{
    attention::Reach,
    geometry::KvGeometry,
    kv::{Blocks, KvBudget, KvError, KvWindows},
    window_table::KEPT_BEHIND,
};
use crate::cache::BLOCK_TOKENS;

/// A sequence of so many stretches uses up both parts alike. Chats are mostly shorter than this and texts that agents read longer:
/// with windows in five of six layers, of short sequences two thirds of those fit that would if everything was kept, and of
/// the longest ones nearly three times as many.
const STRETCHES: u64 = 4;

/// One part in so many of the budget is for copies of gathered keys and values.
const COPIES: u64 = 5;

/// What a budget amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Division {
    /// Of each kind of layers that keeps everything.
    pub(super) blocks: Blocks,
    /// Of each kind that keeps what a window reaches, if there are any.
    pub(super) windows: Option<WindowShare>,
    /// Tokens of which copies may be kept.
    pub(super) copied: usize,
}

/// The part of layers with windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WindowShare {
    /// Blocks of each kind.
    pub(super) count: i32,
    /// What of it is promised. One stretch is not: who has nothing yet may get it while it is found out whether there is room.
    pub(super) promised: KvWindows,
}

/// Bytes of a block in all layers that keep everything, and in all with a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockBytes {
    pub(super) all: u64,
    pub(super) windows: u64,
}

/// Tokens that a sequence has of a window at most, in whole blocks. `None`: as many as it is long.
pub(super) fn stretch(reach: Reach, step_tokens: Option<usize>) -> Option<usize> {
    let tokens = reach.len()?.checked_add(step_tokens?)?.checked_add(KEPT_BEHIND)?;
    // They may begin anywhere in a block.
    tokens.checked_next_multiple_of(BLOCK_TOKENS)?.checked_add(BLOCK_TOKENS)
}

/// The geometry of layers of which those give back what their window has left for which that is of use in a context of so
/// many tokens.
pub(super) fn forgetting(geometry: &KvGeometry, budget: KvBudget, context: usize) -> KvGeometry {
    geometry.keeping(|reach| stretch(reach, budget.step_tokens).is_some_and(|stretch| stretch < context))
}

/// The longest stretch of the layers with a window.
pub(super) fn longest_stretch(geometry: &KvGeometry, budget: KvBudget) -> Option<usize> {
    geometry.kinds().iter().filter_map(|kind| stretch(kind.reach, budget.step_tokens)).max()
}

impl Division {
    /// Of layers that all keep everything: kinds hold as many tokens each.
    ///
    /// # Errors
    /// The budget is too small.
    pub(super) fn whole(budget: KvBudget, bytes: BlockBytes, copies: bool) -> Result<Self, KvError> {
        let (rest, copied) = without_copies(budget, bytes, copies);
        let (blocks, copied) = match Blocks::of(rest, bytes.of_both()) {
            Ok(blocks) => (blocks, copied),
            // There is no memory to spare.
            Err(_) => (Blocks::of(budget, bytes.of_both())?, 0),
        };
        Ok(Self { blocks, windows: None, copied })
    }

    /// Of layers of which some keep what a window reaches, at most a `stretch` of a `context`: kinds of each sort hold as many
    /// tokens. `None`: there is too little memory for windows to be of use.
    pub(super) fn with_windows(
        budget: KvBudget,
        bytes: BlockBytes,
        (stretch, context): (usize, usize),
        copies: bool,
    ) -> Option<Self> {
        let (rest, copied) = without_copies(budget, bytes, copies);
        let (blocks, windows) = shares(rest, bytes, blocks_of(stretch), blocks_of(context))?;
        Some(Self { blocks, windows: Some(windows), copied })
    }

    /// The same with no more than `most` blocks of a kind.
    pub(super) fn at_most(mut self, most: i32) -> Self {
        let cut = |count: &mut i32, tokens: &mut usize| {
            let unused = (*count - most).max(0);
            *count -= unused;
            *tokens = tokens.saturating_sub(unused.unsigned_abs() as usize * BLOCK_TOKENS);
        };
        cut(&mut self.blocks.count, &mut self.blocks.tokens);
        if let Some(windows) = &mut self.windows {
            cut(&mut windows.count, &mut windows.promised.tokens);
        }
        self
    }
}

impl BlockBytes {
    fn of_both(self) -> u64 {
        self.all.saturating_add(self.windows)
    }
}

/// What is left of a budget for blocks, and tokens of which copies may be kept.
fn without_copies(budget: KvBudget, bytes: BlockBytes, copies: bool) -> (KvBudget, usize) {
    let copies = if copies { budget.bytes / COPIES } else { 0 };
    let copied = (copies / bytes.of_both().max(1)) as usize * BLOCK_TOKENS;
    (KvBudget { bytes: budget.bytes - copies, ..budget }, copied)
}

fn blocks_of(tokens: usize) -> u64 {
    tokens.div_ceil(BLOCK_TOKENS) as u64
}

/// `stretch` and `context` are in blocks.
fn shares(budget: KvBudget, bytes: BlockBytes, stretch: u64, context: u64) -> Option<(Blocks, WindowShare)> {
    let sequences = budget.sequences as u64;
    let length = context.min(STRETCHES.checked_mul(stretch)?).max(stretch);
    // Of `length` blocks of the one there are `stretch` of the other.
    let both = u128::from(length) * u128::from(bytes.all) + u128::from(stretch) * u128::from(bytes.windows);
    let all = u64::try_from(u128::from(budget.bytes) * u128::from(length) / both.max(1)).ok()?;
    let windows = u64::try_from(u128::from(all) * u128::from(stretch) / u128::from(length)).ok()?;
    // One more than has a place, and what is not promised.
    let windows = windows.min(sequences.saturating_add(2).saturating_mul(stretch));
    // Two must be able to run.
    if windows < 3 * stretch {
        return None;
    }
    let all = match bytes.all {
        // They cost nothing. That there are as many keeps the number of tokens that prefixes are made of within bounds.
        0 => all.max(context.saturating_add(sequences)),
        block => (budget.bytes - windows * bytes.windows) / block,
    };
    let count = |blocks: u64| i32::try_from(blocks).unwrap_or(i32::MAX);
    let usable = (count(all).unsigned_abs() as usize).checked_sub(budget.sequences).filter(|&it| it > 0)?;
    let promised = KvWindows {
        tokens: (windows - stretch) as usize * BLOCK_TOKENS,
        stretch: stretch as usize * BLOCK_TOKENS,
    };
    let blocks = Blocks { count: count(all), tokens: usable * BLOCK_TOKENS };
    Some((blocks, WindowShare { count: count(windows), promised }))
}

#[cfg(test)]
mod tests;
