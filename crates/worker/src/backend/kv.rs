//! Memory for keys and values: how much there is, and who asks for it.

use mlx_rs::{Dtype, error::Exception};
use thiserror::Error;

pub use mlx_ext::KvDtype;

use crate::cache::{BLOCK_TOKENS, OutOfBlocks, OutOfStates};

/// Memory for keys and values that a worker may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvBudget {
    /// Bytes, over all sequences.
    pub bytes: u64,
    /// Sequences that hold some at the same time.
    pub sequences: usize,
    /// The type that [`Kernels::Cpu`](super::Kernels::Cpu) keep: in float16 twice as many tokens fit. MLX's operations
    /// keep what they compute with.
    pub dtype: KvDtype,
}

/// Why there is no memory for keys and values.
#[derive(Debug, Error)]
pub enum KvError {
    /// Not even one block for each sequence.
    #[error(
        "{bytes} bytes for keys and values are too few: {needed} are needed; raise `worker.kv_max_bytes` or lower `worker.max_num_seqs`"
    )]
    Budget {
        /// What was allowed.
        bytes: u64,
        /// The least that serves.
        needed: u64,
    },
    /// More tokens were to be held than there is memory for.
    #[error(transparent)]
    Full(#[from] OutOfBlocks),
    /// More sequences were to have a state than there is memory for.
    #[error(transparent)]
    NoRoom(#[from] OutOfStates),
    /// A sequence was to go on where no state of it is kept.
    #[error("there is no state behind the first {len} tokens to go on from")]
    NoState {
        /// How many tokens it has.
        len: usize,
    },
    /// A step can't begin yet: what it has to change is read by one that is still computed.
    #[error("the step before has to be computed first")]
    InUse,
    /// MLX refused or failed an operation.
    #[error(transparent)]
    Mlx(#[from] Exception),
}

/// What the step before reads, if it may still be computed when another one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepBefore {
    /// It has been computed.
    Computed,
    /// Only what is left for the next one: that of other steps may change.
    ReadsCopies,
    /// All keys and values: none of them may change.
    ReadsBlocks,
}

/// One row of a step: where it goes on, and what it has, an `M`.
pub(crate) struct RowMemory<'a, M> {
    /// Tokens that the sequence has.
    pub(crate) position: usize,
    /// Tokens that the step appends.
    pub(crate) new_tokens: usize,
    pub(crate) memory: &'a mut M,
}

/// What a budget amounts to, in blocks of [`BLOCK_TOKENS`] tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    /// All of them.
    pub(super) count: i32,
    /// Tokens that fit, whichever sequences hold them.
    pub(super) tokens: usize,
}

/// Bytes of a component of this type, which is one of the float types.
pub(super) fn value_bytes(dtype: Dtype) -> u64 {
    if dtype == Dtype::Float32 { 4 } else { 2 }
}

impl Blocks {
    /// The blocks of a budget, if each takes `block_bytes` in all layers together.
    pub(super) fn of(budget: KvBudget, block_bytes: u64) -> Result<Self, KvError> {
        let block_bytes = block_bytes.max(1);
        let count = i32::try_from(budget.bytes / block_bytes).unwrap_or(i32::MAX);
        // The last block of each sequence may be partly empty: what is promised is there in any case.
        let usable = (count.unsigned_abs() as usize).saturating_sub(budget.sequences);
        if usable == 0 {
            let blocks = (budget.sequences as u64).saturating_add(1);
            return Err(KvError::Budget { bytes: budget.bytes, needed: block_bytes.saturating_mul(blocks) });
        }
        Ok(Self { count, tokens: usable * BLOCK_TOKENS })
    }
}
