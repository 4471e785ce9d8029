//! A pool of equal blocks with reference counts.

use thiserror::Error;

/// Tokens of a block.
pub const BLOCK_TOKENS: usize = 32;

/// Blocks that sequences use, and that several sequences may share.
///
/// Each use of a block is a reference: [`allocate`](Self::allocate) and [`share`](Self::share) add one,
/// [`release`](Self::release) takes one away. A block without references is free. A block may be written to only while
/// it has one reference; [`copy_target`](Self::copy_target) decides what a sequence that wants to write does.
#[derive(Debug)]
pub struct BlockPool {
    /// References of each block.
    references: Vec<u32>,
    /// Blocks without any. The last one freed is the first one allocated: its memory is warm.
    free: Vec<i32>,
}

/// Every block is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no memory for keys and values is left")]
pub struct OutOfBlocks;

impl BlockPool {
    /// A pool of `blocks` free blocks, which are numbered from 0. They are allocated in this order at first.
    pub fn new(blocks: i32) -> Self {
        let blocks = blocks.max(0);
        Self { references: vec![0; blocks.unsigned_abs() as usize], free: (0..blocks).rev().collect() }
    }

    /// How many blocks are free.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// How many blocks are in use.
    pub fn used(&self) -> usize {
        self.references.len() - self.free.len()
    }

    /// A block with one reference, the caller's.
    ///
    /// # Errors
    /// None is free.
    pub fn allocate(&mut self) -> Result<i32, OutOfBlocks> {
        let block = self.free.pop().ok_or(OutOfBlocks)?;
        self.references[index(block)] = 1;
        Ok(block)
    }

    /// Adds a reference to a block that is in use.
    ///
    /// # Panics
    /// If the block is free, or not in the pool.
    pub fn share(&mut self, block: i32) {
        let references = &mut self.references[index(block)];
        assert!(*references > 0, "block {block} is free and can't be shared");
        *references += 1;
    }

    /// Takes a reference away. Returns whether it was the last one, so that the block is free now.
    ///
    /// # Panics
    /// If the block is free, or not in the pool.
    pub fn release(&mut self, block: i32) -> bool {
        let references = &mut self.references[index(block)];
        assert!(*references > 0, "block {block} is free and can't be released");
        *references -= 1;
        if *references > 0 {
            return false;
        }
        self.free.push(block);
        true
    }

    /// Whether a block has several references, so that it must not be written to.
    pub fn is_shared(&self, block: i32) -> bool {
        self.references[index(block)] > 1
    }

    /// Where a holder of `block` has to write instead: to a new block, to which it first copies the old one and which it
    /// then holds in its place, having released the old one. `None` if it may write to `block` itself.
    ///
    /// # Errors
    /// The block is shared, and none is free.
    pub fn copy_target(&mut self, block: i32) -> Result<Option<i32>, OutOfBlocks> {
        if self.is_shared(block) { self.allocate().map(Some) } else { Ok(None) }
    }
}

/// Blocks are numbered as kernels count them. What is negative lies beyond every pool.
fn index(block: i32) -> usize {
    usize::try_from(block).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
