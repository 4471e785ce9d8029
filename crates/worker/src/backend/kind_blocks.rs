//! The blocks of one kind of layers, and a sequence's table of them: of all of its tokens, or of those that a window reaches.

use std::{ops::Range, sync::Arc};

use super::{
    attention::Reach,
    block_table::{BlockMemory, BlockTable, SharedBlocks},
    kv::KvError,
    window_table::{WindowBlocks, WindowTable},
};

/// The blocks of one kind of layers.
pub(super) enum KindBlocks<M> {
    /// Sequences keep everything.
    All(Arc<SharedBlocks<M>>),
    /// They keep what a window reaches.
    Window(Arc<WindowBlocks<M>>),
}

/// A sequence's blocks in order.
pub(crate) enum KindTable<M> {
    All(BlockTable<M>),
    Window(WindowTable<M>),
}

impl<M> KindBlocks<M> {
    /// `count` free blocks of `memory`, for layers whose queries see so much.
    pub(super) fn new(memory: M, count: i32, reach: Reach) -> Self {
        match reach {
            Reach::All => Self::All(SharedBlocks::new(memory, count)),
            Reach::Window(_) | Reach::Chunk(_) => Self::Window(WindowBlocks::new(memory, count, reach)),
        }
    }

    pub(super) fn memory(&self) -> &M {
        match self {
            Self::All(shared) => &shared.memory,
            Self::Window(shared) => &shared.memory,
        }
    }

    /// Says how many blocks are in use. Any thread may ask.
    pub(super) fn used(&self) -> Box<dyn Fn() -> usize + Send> {
        match self {
            Self::All(shared) => shared.used(),
            Self::Window(shared) => shared.used(),
        }
    }

    /// That of a sequence without tokens.
    pub(super) fn table(&self) -> KindTable<M> {
        match self {
            Self::All(shared) => KindTable::All(BlockTable::new(shared)),
            Self::Window(shared) => KindTable::Window(WindowTable::new(shared)),
        }
    }
}

impl<M> Clone for KindBlocks<M> {
    fn clone(&self) -> Self {
        match self {
            Self::All(shared) => Self::All(Arc::clone(shared)),
            Self::Window(shared) => Self::Window(Arc::clone(shared)),
        }
    }
}

impl<M> KindTable<M> {
    /// All of them. [`NO_BLOCK`](super::window_table::NO_BLOCK) stands for those before a window.
    pub(super) fn blocks(&self) -> &[i32] {
        match self {
            Self::All(table) => table.blocks(),
            Self::Window(table) => table.blocks(),
        }
    }

    /// Gives back the blocks that only tokens from `len` on need.
    pub(crate) fn truncate(&mut self, len: usize) {
        match self {
            Self::All(table) => table.truncate(len),
            Self::Window(table) => table.truncate(len),
        }
    }

    /// The table of another sequence that begins with the first `len` tokens of this one.
    pub(crate) fn fork(&self, len: usize) -> Self {
        match self {
            Self::All(table) => Self::All(table.fork(len)),
            Self::Window(table) => Self::Window(table.fork(len)),
        }
    }

    /// How many of the first `len` tokens a sequence can go on behind.
    pub(crate) fn fork_point(&self, len: usize) -> usize {
        match self {
            Self::All(_) => len,
            Self::Window(table) => table.fork_point(len),
        }
    }

    /// The same as [`fork`](Self::fork), with blocks that nobody takes away before it goes on. `None`: some are gone.
    pub(crate) fn resume(&self, len: usize) -> Option<Self> {
        Some(match self {
            Self::All(table) => Self::All(table.fork(len)),
            Self::Window(table) => Self::Window(table.resume(len)?),
        })
    }

    /// Holds the blocks of another sequence with the same first `len` tokens where its own are gone.
    pub(crate) fn adopt(&mut self, other: &Self, len: usize) {
        if let (Self::Window(own), Self::Window(other)) = (self, other) {
            own.adopt(other, len);
        }
    }
}

impl<M: BlockMemory> KindTable<M> {
    /// Makes sure of blocks for `new` tokens behind `len`, and that those which they go to are this sequence's alone.
    /// Returns [`blocks`](Self::blocks).
    pub(super) fn reserve(&mut self, len: usize, new: usize) -> Result<&[i32], KvError> {
        match self {
            Self::All(table) => table.reserve(len, new),
            Self::Window(table) => table.reserve(len, new),
        }
    }

    /// Bytes of the keys and values of so many whole blocks' tokens.
    pub(crate) fn bytes_of(&self, tokens: usize) -> usize {
        match self {
            Self::All(table) => table.bytes_of(tokens),
            Self::Window(table) => table.bytes_of(tokens),
        }
    }

    /// Keys and values of the tokens of whole blocks.
    pub(crate) fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, KvError> {
        match self {
            Self::All(table) => table.export(tokens),
            Self::Window(table) => table.export(tokens),
        }
    }

    /// Appends the keys and values that [`export`](Self::export) gave of as many `tokens`.
    pub(crate) fn import(&mut self, tokens: Range<usize>, bytes: &[u8]) -> Result<(), KvError> {
        match self {
            Self::All(table) => table.import(tokens, bytes),
            Self::Window(table) => table.import(tokens, bytes),
        }
    }
}
