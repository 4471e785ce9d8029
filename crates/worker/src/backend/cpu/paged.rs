//! Keys and values in blocks of one pool, and attention on them.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mlx_ext::cpu::{Attention, KvPool, KvShape, Step, StepRow};
use mlx_rs::{Array, error::Exception};

use super::super::{
    KvInUse,
    attention::AttentionSpec,
    kv::{KvBudget, KvDtype, KvError, KvGeometry, RowMemory},
    rope::Table,
};
use crate::cache::{BLOCK_TOKENS, BlockPool};

/// The memory of all sequences.
pub(crate) struct PagedKv {
    shared: Arc<Shared>,
    tokens: usize,
}

/// The blocks, and which of them are in use.
struct Shared {
    memory: KvPool,
    pool: Mutex<BlockPool>,
}

/// A sequence's blocks in order. It holds one reference of each.
pub(crate) struct PagedSequence {
    blocks: Vec<i32>,
    shared: Arc<Shared>,
}

/// The rows of a step.
pub(crate) struct PagedStep {
    step: Step,
    /// The most tokens that a row has after the step.
    longest: usize,
}

impl PagedKv {
    pub(crate) fn new(geometry: KvGeometry, budget: KvBudget) -> Result<Self, KvError> {
        let value_bytes = match budget.dtype {
            KvDtype::Float32 => 4,
            KvDtype::Float16 => 2,
        };
        let blocks = geometry.blocks(budget, value_bytes)?;
        let shape = KvShape {
            layers: geometry.layers,
            kv_heads: geometry.heads.kv,
            head_dim: geometry.heads.dim,
            dtype: budget.dtype,
        };
        let memory = KvPool::new(shape, blocks.count)?;
        let pool = Mutex::new(BlockPool::new(blocks.count));
        Ok(Self { shared: Arc::new(Shared { memory, pool }), tokens: blocks.tokens })
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Says how many bytes the blocks take that are in use.
    pub(crate) fn in_use(&self) -> KvInUse {
        let (shared, block_bytes) = (Arc::clone(&self.shared), self.shared.block_bytes() as u64);
        Box::new(move || shared.pool().used() as u64 * block_bytes)
    }

    pub(crate) fn sequence(&self) -> PagedSequence {
        PagedSequence { blocks: Vec::new(), shared: Arc::clone(&self.shared) }
    }

    pub(crate) fn begin(&self, rows: Vec<RowMemory<'_, PagedSequence>>) -> Result<PagedStep, KvError> {
        let mut step_rows = Vec::with_capacity(rows.len());
        let mut longest = 0;
        for RowMemory { position, new_tokens, memory } in rows {
            let blocks = memory.reserve(position, new_tokens)?;
            longest = longest.max(position + new_tokens);
            step_rows.push(StepRow { new_tokens: new_tokens as i32, position: position as i32, blocks });
        }
        Ok(PagedStep { step: self.shared.memory.step(&step_rows)?, longest })
    }
}

impl Shared {
    fn pool(&self) -> MutexGuard<'_, BlockPool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of all layers.
    fn block_bytes(&self) -> usize {
        KvPool::block_bytes(self.memory.shape()) as usize
    }
}

impl PagedSequence {
    /// Makes sure of blocks for `new` tokens behind `len`, and that those which they go to are this sequence's alone.
    /// Returns all of its blocks.
    fn reserve(&mut self, len: usize, new: usize) -> Result<&[i32], KvError> {
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

    pub(crate) fn truncate(&mut self, len: usize) {
        let kept = len.div_ceil(BLOCK_TOKENS).min(self.blocks.len());
        let mut pool = self.shared.pool();
        for block in self.blocks.drain(kept..).rev() {
            pool.release(block);
        }
    }

    /// Keys and values of the tokens of whole blocks, one block after the other.
    pub(crate) fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, KvError> {
        let blocks = self.blocks.get(whole_blocks(tokens)?).ok_or_else(not_held)?;
        let block_bytes = self.shared.block_bytes();
        let mut bytes = vec![0; blocks.len() * block_bytes];
        for (&block, bytes) in blocks.iter().zip(bytes.chunks_exact_mut(block_bytes)) {
            self.shared.memory.read_block(block, bytes)?;
        }
        Ok(bytes)
    }

    /// Appends the keys and values that [`export`](Self::export) gave of as many `tokens`.
    pub(crate) fn import(&mut self, tokens: Range<usize>, bytes: &[u8]) -> Result<(), KvError> {
        self.reserve(tokens.start, tokens.len())?;
        let blocks = self.blocks.get(whole_blocks(tokens)?).ok_or_else(not_held)?;
        let parts = bytes.chunks(self.shared.block_bytes());
        if parts.len() != blocks.len() {
            return Err(Exception::custom("these are not the keys and values of so many tokens").into());
        }
        for (&block, bytes) in blocks.iter().zip(parts) {
            self.shared.memory.write_block(block, bytes)?;
        }
        Ok(())
    }

    pub(crate) fn fork(&self, len: usize) -> Self {
        let blocks = self.blocks[..len.div_ceil(BLOCK_TOKENS).min(self.blocks.len())].to_vec();
        let mut pool = self.shared.pool();
        blocks.iter().for_each(|&block| pool.share(block));
        drop(pool);
        Self { blocks, shared: Arc::clone(&self.shared) }
    }
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

impl Drop for PagedSequence {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

impl PagedStep {
    pub(crate) fn attend(&self, spec: &AttentionSpec, layer: usize, qkv: &Array) -> Result<Array, Exception> {
        let (shared, none);
        let table: &Table = if let Some(rope) = &spec.rope {
            shared = rope.table(self.longest);
            &shared
        } else {
            // Without rotation there are no pairs to look up.
            none = Table::new(&[], self.longest);
            &none
        };
        self.step.attend(&Attention {
            qkv,
            cos: &table.cos,
            sin: &table.sin,
            layer: layer as i32,
            heads: spec.heads.queries,
            scale: spec.scale,
            window: spec.window,
            traditional: spec.rope.as_ref().is_some_and(|rope| rope.traditional()),
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
