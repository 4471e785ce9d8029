//! Which blocks of a pool a sequence has, whatever the blocks are made of.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mlx_rs::error::Exception;

use super::kv::KvError;
use crate::cache::{BLOCK_TOKENS, BlockPool};

/// Keys and values of all layers, in blocks that are numbered from 0.
pub(crate) trait BlockMemory {
    /// Bytes of a block in all layers together.
    fn block_bytes(&self) -> usize;

    /// Copies a block.
    fn copy_block(&self, from: i32, to: i32) -> Result<(), Exception>;

    /// The bytes of some blocks.
    fn read_blocks(&self, blocks: &[i32]) -> Result<Vec<u8>, Exception>;

    /// Fills as many blocks with what [`read_blocks`](Self::read_blocks) gave.
    ///
    /// # Errors
    /// These are not the bytes of so many blocks.
    fn write_blocks(&self, blocks: &[i32], bytes: &[u8]) -> Result<(), Exception>;
}

/// The blocks, and which of them are in use.
pub(super) struct SharedBlocks<M> {
    pub(super) memory: M,
    pool: Arc<Mutex<BlockPool>>,
}

/// A sequence's blocks in order. It holds one reference of each.
pub(crate) struct BlockTable<M> {
    blocks: Vec<i32>,
    shared: Arc<SharedBlocks<M>>,
}

impl<M> SharedBlocks<M> {
    /// `count` free blocks of `memory`.
    pub(super) fn new(memory: M, count: i32) -> Arc<Self> {
        Arc::new(Self { memory, pool: Arc::new(Mutex::new(BlockPool::new(count))) })
    }

    /// Says how many blocks are in use. Any thread may ask.
    pub(super) fn used(&self) -> Box<dyn Fn() -> usize + Send> {
        let pool = Arc::clone(&self.pool);
        Box::new(move || lock(&pool).used())
    }

    fn pool(&self) -> MutexGuard<'_, BlockPool> {
        lock(&self.pool)
    }
}

fn lock(pool: &Mutex<BlockPool>) -> MutexGuard<'_, BlockPool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M> BlockTable<M> {
    /// Of a sequence without tokens.
    pub(super) fn new(shared: &Arc<SharedBlocks<M>>) -> Self {
        Self { blocks: Vec::new(), shared: Arc::clone(shared) }
    }

    /// All of them.
    pub(super) fn blocks(&self) -> &[i32] {
        &self.blocks
    }

    /// Gives back the blocks that only tokens from `len` on need.
    pub(crate) fn truncate(&mut self, len: usize) {
        let kept = len.div_ceil(BLOCK_TOKENS).min(self.blocks.len());
        let mut pool = self.shared.pool();
        for block in self.blocks.drain(kept..).rev() {
            pool.release(block);
        }
    }

    /// The table of another sequence that begins with the first `len` tokens of this one.
    pub(crate) fn fork(&self, len: usize) -> Self {
        let blocks = self.blocks[..len.div_ceil(BLOCK_TOKENS).min(self.blocks.len())].to_vec();
        let mut pool = self.shared.pool();
        blocks.iter().for_each(|&block| pool.share(block));
        drop(pool);
        Self { blocks, shared: Arc::clone(&self.shared) }
    }
}

impl<M: BlockMemory> BlockTable<M> {
    /// Bytes of the keys and values of so many whole blocks' tokens.
    pub(super) fn bytes_of(&self, tokens: usize) -> usize {
        (tokens / BLOCK_TOKENS).saturating_mul(self.shared.memory.block_bytes())
    }

    /// Makes sure of blocks for `new` tokens behind `len`, and that those which they go to are this sequence's alone.
    /// Returns all of its blocks.
    pub(super) fn reserve(&mut self, len: usize, new: usize) -> Result<&[i32], KvError> {
        let mut pool = self.shared.pool();
        for block in self.blocks.iter_mut().skip(len / BLOCK_TOKENS) {
            if let Some(target) = pool.copy_target(*block)? {
                if let Err(error) = self.shared.memory.copy_block(*block, target) {
                    pool.release(target);
                    return Err(error.into());
                }
                pool.release(std::mem::replace(block, target));
            }
        }
        let needed = (len + new).div_ceil(BLOCK_TOKENS);
        while self.blocks.len() < needed {
            self.blocks.push(pool.allocate()?);
        }
        Ok(&self.blocks)
    }

    /// Keys and values of the tokens of whole blocks.
    pub(crate) fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, KvError> {
        let blocks = self.blocks.get(whole_blocks(tokens)?).ok_or_else(not_held)?;
        Ok(self.shared.memory.read_blocks(blocks)?)
    }

    /// Appends the keys and values that [`export`](Self::export) gave of as many `tokens`.
    pub(crate) fn import(&mut self, tokens: Range<usize>, bytes: &[u8]) -> Result<(), KvError> {
        self.reserve(tokens.start, tokens.len())?;
        let blocks = self.blocks.get(whole_blocks(tokens)?).ok_or_else(not_held)?;
        Ok(self.shared.memory.write_blocks(blocks, bytes)?)
    }
}

impl<M> Drop for BlockTable<M> {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

/// Why bytes can't be those of some blocks.
pub(super) fn other_bytes() -> Exception {
    Exception::custom("these are not the keys and values of so many tokens")
}

/// Which of a sequence's blocks have these tokens, and no others.
fn whole_blocks(tokens: Range<usize>) -> Result<Range<usize>, Exception> {
    if !tokens.start.is_multiple_of(BLOCK_TOKENS) || !tokens.end.is_multiple_of(BLOCK_TOKENS) {
        return Err(Exception::custom(format!("the tokens {tokens:?} are not those of whole blocks")));
    }
    Ok(tokens.start / BLOCK_TOKENS..tokens.end / BLOCK_TOKENS)
}

fn not_held() -> Exception {
    Exception::custom("a sequence does not have the keys and values of these tokens")
}

#[cfg(test)]
mod tests;
