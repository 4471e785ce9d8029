//! Bookkeeping of the memory for keys and values: which blocks and states are in use, by how many
//! sequences, and which prefixes are kept when their sequences have ended. Pure: it names no tensor type and touches no memory of a model.

mod blocks;
mod prefixes;
mod states;

pub use blocks::{BLOCK_TOKENS, BlockPool, OutOfBlocks};
pub use prefixes::{Fork, Match, NodeId, Prefixes, Variant};
pub use states::{OutOfStates, Snapshot, StatePool};
