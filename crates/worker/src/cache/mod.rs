//! Bookkeeping of the memory for keys and values: which blocks are in use, and by how many sequences. Pure: it names no
//! tensor type and touches no memory of a model.

mod blocks;

pub use blocks::{BLOCK_TOKENS, BlockPool, OutOfBlocks};
