//! Keys and values of all sequences in arrays of blocks, one array a layer.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mlx_rs::{
    Array, Dtype,
    error::{AsSliceError, Exception},
    ops::{
        concatenate,
        indexing::{scatter_single, take_axis},
        zeros_dtype,
    },
    transforms::{async_eval, eval},
};

use super::super::{
    block_table::{BlockMemory, other_bytes},
    geometry::KvHeads,
    kv::value_bytes,
};
use crate::cache::BLOCK_TOKENS;

/// Blocks that there is memory for at first.
const FIRST_BLOCKS: i32 = 64;

/// `BLOCK_TOKENS`, as MLX counts.
pub(super) const TOKENS: i32 = BLOCK_TOKENS as i32;

/// The blocks of every layer.
///
/// A *page* is what a block has of one head's keys or values: `[TOKENS, dim]`. A block is `2 * kv` pages: the keys' heads,
/// then the values'. Before the first block stands one that is always zero, [`ZERO_PAGE`](Self::ZERO_PAGE).
///
/// Blocks are written in place: between steps nothing else refers to an array, so MLX takes its memory for the result. A step
/// that is computed refers to those that it reads: nothing is written then, since all of it would be copied.
pub(super) struct ArrayBlocks {
    heads: KvHeads,
    dtype: Dtype,
    /// How many there may be.
    count: i32,
    state: Mutex<State>,
}

struct State {
    /// `[slots, dim]` of each layer, a slot being a token's place in a page.
    layers: Vec<Array>,
    /// Blocks that there is memory for.
    blocks: i32,
    /// What steps have computed, in order, and is not in `layers` yet.
    appended: Vec<Appended>,
    /// What is computed last by a step that was launched and reads `layers`.
    reader: Option<Array>,
}

/// Keys and values of a step's tokens.
pub(super) struct Appended {
    /// Their places: int32 `[tokens * 2 * kv]`.
    pub(super) slots: Array,
    /// `[tokens, 2 * kv, 1, dim]` of each layer; evaluated, or being so.
    pub(super) layers: Vec<Array>,
}

impl ArrayBlocks {
    /// A page of zeros.
    pub(super) const ZERO_PAGE: i32 = 0;

    /// The most blocks whose slots, also if they are gathered and padded, have numbers in int32.
    pub(super) fn most(heads: KvHeads) -> i32 {
        i32::MAX / (2 * heads.kv * TOKENS) / 4
    }

    pub(super) fn new(layers: usize, heads: KvHeads, dtype: Dtype, count: i32) -> Result<Self, Exception> {
        let zero_block = || zeros_dtype(&[2 * heads.kv * TOKENS, heads.dim], dtype);
        let layers = (0..layers).map(|_| zero_block()).collect::<Result<_, _>>()?;
        let state = Mutex::new(State { layers, blocks: 0, appended: Vec::new(), reader: None });
        Ok(Self { heads, dtype, count, state })
    }

    /// The first page of a block.
    pub(super) fn first_page(&self, block: i32) -> i32 {
        (block + 1) * self.pages_of_block()
    }

    /// Pages of a block: keys of each head, then values of each.
    pub(super) fn pages_of_block(&self) -> i32 {
        2 * self.heads.kv
    }

    pub(super) fn heads(&self) -> KvHeads {
        self.heads
    }

    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(super) fn layers(&self) -> usize {
        self.state().layers.len()
    }

    /// Where the layers are.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> Vec<usize> {
        let state = self.state();
        eval(&state.layers).unwrap_or_default();
        state.layers.iter().map(super::address).collect()
    }

    /// What a step has computed belongs to the blocks from now on.
    pub(super) fn append(&self, appended: Appended) {
        self.state().appended.push(appended);
    }

    /// What the last `steps` steps have computed does not belong to them after all.
    pub(super) fn abandon(&self, steps: usize) {
        let State { appended, reader, .. } = &mut *self.state();
        appended.truncate(appended.len().saturating_sub(steps));
        // To wait for it again would only give its failure again.
        *reader = None;
    }

    /// A step was launched that reads blocks, until `last` has been computed.
    pub(super) fn set_reader(&self, last: Array) {
        self.state().reader = Some(last);
    }

    /// Begins to write what was appended, unless that is for `later`, and makes room for blocks up to `last`.
    pub(super) fn prepare(&self, last: i32, later: bool) -> Result<(), Exception> {
        let mut state = self.state();
        if !later {
            self.write_appended(&mut state)?;
        }
        self.grow(&mut state, last)
    }

    /// `[pages, TOKENS * dim]` of a layer's pages, int32 of any shape; lazy.
    pub(super) fn gather(&self, layer: usize, pages: &Array) -> Result<Array, Exception> {
        take_axis(self.pages(&self.state().layers[layer])?, pages, 0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `[pages, TOKENS * dim]` of `[slots, dim]`.
    fn pages(&self, slots: &Array) -> Result<Array, Exception> {
        slots.reshape(&[-1, TOKENS * self.heads.dim])
    }

    /// The pages of some blocks: int32 `[blocks * pages_of_block]`.
    fn pages_of(&self, blocks: &[i32]) -> Array {
        let pages = blocks.iter().flat_map(|&block| {
            let first = self.first_page(block);
            first..first + self.pages_of_block()
        });
        let pages: Vec<i32> = pages.collect();
        Array::from_slice(&pages, &[pages.len() as i32])
    }

    /// Does not wait until it is written, but until nothing else reads. If it fails, it stays appended, and is written later.
    fn write_appended(&self, state: &mut State) -> Result<(), Exception> {
        if state.appended.is_empty() {
            return Ok(());
        }
        if let Some(reader) = state.reader.take() {
            eval([&reader])?;
        }
        let mut written = state.layers.clone();
        for Appended { slots, layers: new } in &state.appended {
            let write = |(layer, new): (&Array, &Array)| {
                scatter_single(layer, slots, new.reshape(&[-1, 1, self.heads.dim])?, 0)
            };
            written = written.iter().zip(new).map(write).collect::<Result<_, _>>()?;
        }
        state.layers = written;
        state.appended.clear();
        async_eval(&state.layers)
    }

    fn grow(&self, state: &mut State, last: i32) -> Result<(), Exception> {
        if last < state.blocks {
            return Ok(());
        }
        let blocks = (last + 1).max(2 * state.blocks).max(FIRST_BLOCKS).min(self.count.max(last + 1));
        let slots = (blocks + 1) * self.pages_of_block() * TOKENS;
        // Layer by layer, so that at most one of them is there twice.
        for layer in &mut state.layers {
            let missing = slots - layer.dim(0);
            if missing > 0 {
                let room = zeros_dtype(&[missing, self.heads.dim], self.dtype)?;
                let grown = concatenate(&[&*layer, &room], 0)?;
                eval([&grown])?;
                *layer = grown;
            }
        }
        state.blocks = blocks;
        Ok(())
    }

    /// Writes pages `[pages, TOKENS * dim]` of each layer.
    fn write_pages(&self, state: &mut State, pages: &Array, new: &[Array]) -> Result<(), Exception> {
        let write = |(layer, new): (&Array, &Array)| {
            let new = new.reshape(&[-1, 1, TOKENS * self.heads.dim])?;
            scatter_single(self.pages(layer)?, pages, new, 0)?.reshape(&[-1, self.heads.dim])
        };
        let written = state.layers.iter().zip(new).map(write).collect::<Result<_, _>>()?;
        state.layers = written;
        eval(&state.layers)
    }
}

/// The bytes are those of one layer's blocks after the other's.
impl BlockMemory for ArrayBlocks {
    fn block_bytes(&self) -> usize {
        let page_bytes =
            BLOCK_TOKENS * self.heads.dim.unsigned_abs() as usize * value_bytes(self.dtype) as usize;
        self.layers() * self.pages_of_block().unsigned_abs() as usize * page_bytes
    }

    fn copy_block(&self, from: i32, to: i32) -> Result<(), Exception> {
        let mut state = self.state();
        self.write_appended(&mut state)?;
        self.grow(&mut state, to)?;
        let (from, to) = (self.pages_of(&[from]), self.pages_of(&[to]));
        let copy = |layer: &Array| take_axis(self.pages(layer)?, &from, 0);
        let copied: Vec<Array> = state.layers.iter().map(copy).collect::<Result<_, _>>()?;
        // First, so that nothing else refers to the arrays when they are written to.
        eval(&copied)?;
        self.write_pages(&mut state, &to, &copied)
    }

    fn read_blocks(&self, blocks: &[i32]) -> Result<Vec<u8>, Exception> {
        if blocks.is_empty() {
            return Ok(Vec::new());
        }
        let mut state = self.state();
        self.write_appended(&mut state)?;
        let pages = self.pages_of(blocks);
        let read = |layer: &Array| {
            take_axis(self.pages(layer)?, &pages, 0)?.reshape(&[-1])?.view_dtype(Dtype::Uint8)
        };
        let layers: Vec<Array> = state.layers.iter().map(read).collect::<Result<_, _>>()?;
        eval(&layers)?;
        let mut bytes = Vec::with_capacity(layers.iter().map(Array::nbytes).sum());
        for layer in &layers {
            bytes.extend_from_slice(layer.try_as_slice::<u8>().map_err(|error| unreadable(&error))?);
        }
        Ok(bytes)
    }

    fn write_blocks(&self, blocks: &[i32], bytes: &[u8]) -> Result<(), Exception> {
        if bytes.is_empty() || bytes.len() != blocks.len() * self.block_bytes() {
            return Err(other_bytes());
        }
        let mut state = self.state();
        let layer_bytes = bytes.len() / state.layers.len();
        self.write_appended(&mut state)?;
        self.grow(&mut state, blocks.iter().copied().max().unwrap_or(0))?;
        let new = |bytes: &[u8]| Array::from_slice(bytes, &[bytes.len() as i32]).view_dtype(self.dtype);
        let new: Vec<Array> = bytes.chunks_exact(layer_bytes).map(new).collect::<Result<_, _>>()?;
        self.write_pages(&mut state, &self.pages_of(blocks), &new)
    }
}

fn unreadable(error: &AsSliceError) -> Exception {
    Exception::custom(error.to_string())
}

#[cfg(test)]
mod tests;
