//! Which blocks a sequence has in layers with a window: those that the window still reaches.
//!
//! ```text
//! tokens    0 ········ 32 ······· 64 ······· 96 ······· 128 ····· 150
//! sequence   given back  given back   pinned     pinned    pinned
//! prefix     held        gone         held       held
//! ```
//!
//! Before a step, a sequence gives back the blocks that no later query sees, nor one shortly before. A block that it may read
//! or write is *pinned*. A kept prefix only *holds* blocks: where none is free, the block that was used least recently is taken from the
//! prefixes that hold it. Nobody goes on from there any more; what was computed behind it stays of use. It is the rule for
//! the states of other layers, see [`StatePool`].

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    attention::Reach,
    block_table::{BlockMemory, not_held, other_bytes, whole_blocks},
    kv::KvError,
};
use crate::cache::{BLOCK_TOKENS, OutOfBlocks, Snapshot, StatePool};

/// Stands in a table for a block that the sequence does not have.
pub(super) const NO_BLOCK: i32 = -1;

/// The window of so many tokens before the next one is kept, too. So a prefix that ends with the sequence's last whole block has
/// what those need who go on there. It also covers what is taken back: a step that was launched behind one that fails has
/// one token of a sequence. Guesses are taken back before the next step begins.
pub(super) const KEPT_BEHIND: usize = BLOCK_TOKENS;

/// The blocks of a kind of layers with a window, and who has them.
pub(super) struct WindowBlocks<M> {
    pub(super) memory: M,
    pool: Arc<Mutex<StatePool>>,
    reach: Reach,
}

/// A sequence's blocks in order.
pub(crate) struct WindowTable<M> {
    held: Vec<Held>,
    /// The pinned ones, for kernels. Others are [`NO_BLOCK`], which stand before them.
    blocks: Vec<i32>,
    /// Blocks before this one were given back.
    first: usize,
    shared: Arc<WindowBlocks<M>>,
}

/// What a sequence has of a block.
#[derive(Debug, Clone, Copy)]
enum Held {
    Nothing,
    /// Nobody takes it away.
    Pinned(i32),
    /// It may be gone.
    Kept(Snapshot),
}

impl<M> WindowBlocks<M> {
    /// `count` free blocks of `memory`, for layers whose queries see so much.
    pub(super) fn new(memory: M, count: i32, reach: Reach) -> Arc<Self> {
        Arc::new(Self { memory, pool: Arc::new(Mutex::new(StatePool::new(count))), reach })
    }

    /// Says how many blocks are in use. Any thread may ask.
    pub(super) fn used(&self) -> Box<dyn Fn() -> usize + Send> {
        let pool = Arc::clone(&self.pool);
        Box::new(move || lock(&pool).used())
    }

    fn pool(&self) -> MutexGuard<'_, StatePool> {
        lock(&self.pool)
    }

    /// The blocks that a sequence which goes on behind `len` tokens needs.
    fn needed(&self, len: usize) -> Range<usize> {
        let position = i32::try_from(len).unwrap_or(i32::MAX);
        self.reach.first_seen(position).unsigned_abs() as usize / BLOCK_TOKENS..len.div_ceil(BLOCK_TOKENS)
    }
}

fn lock(pool: &Mutex<StatePool>) -> MutexGuard<'_, StatePool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    /// Whether there is a block.
    fn is_there(self, pool: &StatePool) -> bool {
        match self {
            Self::Nothing => false,
            Self::Pinned(_) => true,
            Self::Kept(snapshot) => pool.has(snapshot),
        }
    }

    /// The same for one more holder.
    fn share(self, pool: &mut StatePool) -> Self {
        match self {
            Self::Pinned(block) => Self::Kept(pool.hold(block)),
            Self::Kept(snapshot) if pool.has(snapshot) => {
                pool.share(snapshot);
                self
            }
            Self::Nothing | Self::Kept(_) => Self::Nothing,
        }
    }

    fn give_back(self, pool: &mut StatePool) {
        match self {
            Self::Nothing => {}
            Self::Pinned(block) => pool.unpin(block),
            Self::Kept(snapshot) => pool.release(snapshot),
        }
    }
}

impl<M> WindowTable<M> {
    /// Of a sequence without tokens.
    pub(super) fn new(shared: &Arc<WindowBlocks<M>>) -> Self {
        Self { held: Vec::new(), blocks: Vec::new(), first: 0, shared: Arc::clone(shared) }
    }

    /// The pinned ones, behind as many [`NO_BLOCK`] as there are blocks before them.
    pub(super) fn blocks(&self) -> &[i32] {
        &self.blocks
    }

    /// Gives back the blocks that only tokens from `len` on need.
    pub(super) fn truncate(&mut self, len: usize) {
        let kept = len.div_ceil(BLOCK_TOKENS).min(self.held.len());
        let mut pool = self.shared.pool();
        self.held.drain(kept..).rev().for_each(|held| held.give_back(&mut pool));
        self.blocks.truncate(kept);
        self.first = self.first.min(kept);
    }

    /// The table of another sequence that begins with the first `len` tokens of this one. It pins nothing until it goes on.
    pub(super) fn fork(&self, len: usize) -> Self {
        let mut pool = self.shared.pool();
        let forked = &self.held[..len.div_ceil(BLOCK_TOKENS).min(self.held.len())];
        let held: Vec<Held> = forked.iter().map(|held| held.share(&mut pool)).collect();
        drop(pool);
        Self { blocks: vec![NO_BLOCK; held.len()], held, first: 0, shared: Arc::clone(&self.shared) }
    }

    /// How many of the first `len` tokens a sequence can go on behind.
    pub(super) fn fork_point(&self, len: usize) -> usize {
        let pool = self.shared.pool();
        let is_gone = |&index: &usize| !self.held.get(index).is_some_and(|held| held.is_there(&pool));
        let mut len = len.min(self.held.len() * BLOCK_TOKENS);
        // Behind a block that is gone every window reaches it, down to its own beginning.
        while let Some(gone) = self.shared.needed(len).rev().find(is_gone) {
            len = gone * BLOCK_TOKENS;
        }
        len
    }

    /// The same as [`fork`](Self::fork), with blocks that nobody takes away before it goes on. `None`: some are gone.
    pub(super) fn resume(&self, len: usize) -> Option<Self> {
        let mut fork = self.fork(len);
        fork.pin(len).then_some(fork)
    }

    /// Holds the blocks of another sequence with the same first `len` tokens where its own are gone.
    pub(super) fn adopt(&mut self, other: &Self, len: usize) {
        let mut pool = self.shared.pool();
        for (own, other) in self.held.iter_mut().zip(&other.held).take(len / BLOCK_TOKENS) {
            if !own.is_there(&pool) {
                *own = other.share(&mut pool);
            }
        }
    }

    /// Pins what a sequence that goes on behind `len` tokens needs. False if some of it is gone.
    fn pin(&mut self, len: usize) -> bool {
        let mut pool = self.shared.pool();
        let needed = self.shared.needed(len);
        if needed.end > self.held.len() {
            return false;
        }
        for (held, block) in self.held[needed.clone()].iter_mut().zip(&mut self.blocks[needed]) {
            let Held::Kept(snapshot) = *held else {
                if matches!(held, Held::Nothing) {
                    return false;
                }
                continue;
            };
            let Some(pinned) = pool.pin_snapshot(snapshot) else { return false };
            pool.release(snapshot);
            (*held, *block) = (Held::Pinned(pinned), pinned);
        }
        true
    }

    /// Gives back what no query behind the first `len` tokens sees, nor one of the [`KEPT_BEHIND`] before.
    fn forget(&mut self, len: usize) {
        let first = self.shared.needed(len.saturating_sub(KEPT_BEHIND)).start.min(self.held.len());
        let mut pool = self.shared.pool();
        for index in self.first..first {
            std::mem::replace(&mut self.held[index], Held::Nothing).give_back(&mut pool);
            self.blocks[index] = NO_BLOCK;
        }
        self.first = self.first.max(first);
    }
}

impl<M: BlockMemory> WindowTable<M> {
    /// Makes sure of blocks for `new` tokens behind `len`, that those which they go to are this sequence's alone, and of what
    /// they see. Gives back what nobody sees any more. Returns [`blocks`](Self::blocks).
    pub(super) fn reserve(&mut self, len: usize, new: usize) -> Result<&[i32], KvError> {
        self.forget(len);
        if !self.pin(len) {
            return Err(KvError::Returned { len });
        }
        let mut pool = self.shared.pool();
        let written = self.held.iter_mut().zip(&mut self.blocks).skip(len / BLOCK_TOKENS);
        for (held, block) in written {
            if !pool.is_shared(*block) {
                continue;
            }
            let target = pool.allocate().map_err(|_| OutOfBlocks)?;
            if let Err(error) = self.shared.memory.copy_block(*block, target) {
                pool.unpin(target);
                return Err(error.into());
            }
            pool.unpin(std::mem::replace(block, target));
            *held = Held::Pinned(target);
        }
        while self.held.len() < (len + new).div_ceil(BLOCK_TOKENS) {
            let block = pool.allocate().map_err(|_| OutOfBlocks)?;
            self.held.push(Held::Pinned(block));
            self.blocks.push(block);
        }
        Ok(&self.blocks)
    }

    /// Bytes of the keys and values of so many whole blocks' tokens.
    pub(super) fn bytes_of(&self, tokens: usize) -> usize {
        (tokens / BLOCK_TOKENS).saturating_mul(self.shared.memory.block_bytes())
    }

    /// Keys and values of the tokens of whole blocks, if none of them is gone.
    pub(super) fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, KvError> {
        let held = self.held.get(whole_blocks(tokens)?).ok_or_else(not_held)?;
        let pool = self.shared.pool();
        let block = |held: &Held| match *held {
            Held::Nothing => None,
            Held::Pinned(block) => Some(block),
            Held::Kept(snapshot) => pool.state_of(snapshot),
        };
        let blocks = held.iter().map(block).collect::<Option<Vec<i32>>>().ok_or_else(not_held)?;
        drop(pool);
        Ok(self.shared.memory.read_blocks(&blocks)?)
    }

    /// Appends the keys and values that [`export`](Self::export) gave of as many `tokens`.
    pub(super) fn import(&mut self, tokens: Range<usize>, bytes: &[u8]) -> Result<(), KvError> {
        self.reserve(tokens.start, tokens.len())?;
        let blocks = self.blocks.get(whole_blocks(tokens)?).ok_or_else(other_bytes)?;
        Ok(self.shared.memory.write_blocks(blocks, bytes)?)
    }
}

impl<M> Drop for WindowTable<M> {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

#[cfg(test)]
mod tests;
