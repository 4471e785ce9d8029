//! Keys and values in blocks, and attention on what a step's rows have of them, in one place.
//!
//! ```text
//!              take (pages)                insert (scatter)            one attention
//!   blocks ──────────────▶ [rows, room] ────────────────────▶ [rows, room] ──────────▶ output
//!     ▲                         ▲           the new tokens          │
//!     │ scatter, when           └─────── the same rows again ───────┘ kept for the next step
//!     └── all has been computed
//! ```
//!
//! **What it costs.** Rows that decode attend in groups of similar length ([`grouping`](super::grouping)), with a mask for
//! what they are padded by: a layer takes the same operations for 32 of them as for two. Beside views and what is computed
//! once a step, these are two rotations, a concatenation, a scatter into the blocks, and for each group a scatter and an
//! attention. A longest row of twice the length adds one group at most.
//!
//! Gathering takes three operations more. It reads and writes all keys and values of the rows, and attention reads them
//! again: three times the traffic of attention alone. Therefore the gathered copy is kept, with some room: as long as the
//! same sequences decode, a step adds its tokens to the copy, in place, and nothing is gathered. Copies take memory of
//! their own, a [share](super::super::kv_memory) of the budget; what does not fit is gathered in each step. A chunk of a prompt attends by
//! itself, behind what it gathers of its sequence. Where steps are launched before the ones before have been computed, a
//! copy takes twice the memory: it has a [spare](super::between::Spare), and a layer one concatenation more.
//!
//! Nothing of this has been measured on a GPU yet. A kernel that reads blocks by a table would need neither copies nor
//! masks.
//!
//! **When a step fails** nothing is lost: the blocks are written when everything has been computed, and only then. A step
//! that is launched behind another one may write to them what that one is still computing: but only to the places of
//! its tokens, which its sequences do without if it fails.
//!
//! **What is launched** behind a step that gathers leaves the blocks as they are until then: to write to what is read, MLX
//! would copy all of them. So it can gather nothing itself.
//!
//! **Batches.** Padding and the number of rows change how MLX cuts its sums: in another batch a result is another one
//! within a rounding.

use std::{ops::Range, sync::Arc};

use mlx_rs::{Array, Dtype};

use super::{
    super::{
        block_table::{BlockTable, SharedBlocks},
        geometry::LayerKind,
        kv::{KvError, RowMemory, StepBefore},
    },
    array_blocks::{Appended, ArrayBlocks},
    between::{Between, Stamp},
    group::Row,
    step::{GatheredStep, Groups},
};
/// What all sequences have in the layers of one kind.
pub(crate) struct GatheredKv {
    blocks: Arc<SharedBlocks<ArrayBlocks>>,
    between: Arc<Between>,
    /// Whether rows may attend together: else their results do not depend on each other.
    together: bool,
}

/// What a sequence has of it.
pub(crate) struct GatheredSequence {
    table: BlockTable<ArrayBlocks>,
    blocks: Arc<SharedBlocks<ArrayBlocks>>,
    between: Arc<Between>,
    /// What it has.
    stamp: Stamp,
    /// What it will have after the step that is being computed.
    next: Stamp,
}

impl GatheredKv {
    /// `blocks` of them, and copies of so many tokens. Keys and values have the type of activations, `dtype`.
    pub(crate) fn new(
        kind: LayerKind,
        blocks: i32,
        copied: usize,
        dtype: Dtype,
        together: bool,
    ) -> Result<Self, KvError> {
        let memory = ArrayBlocks::new(kind.layers.unsigned_abs() as usize, kind.heads, dtype, blocks)?;
        let (blocks, between) = (SharedBlocks::new(memory, blocks), Arc::new(Between::new(copied)));
        Ok(Self { blocks, between, together })
    }

    /// The most blocks that there may be.
    pub(crate) fn most_blocks(kind: LayerKind) -> i32 {
        ArrayBlocks::most(kind.heads)
    }

    /// Says how many blocks are in use, without the copies.
    pub(crate) fn used_blocks(&self) -> Box<dyn Fn() -> usize + Send> {
        self.blocks.used()
    }

    /// Forgets what the last `steps` steps have appended, and what has become of copies meanwhile.
    pub(crate) fn abandon(&self, steps: usize) {
        self.between.state().abandon();
        self.blocks.memory.abandon(steps);
    }

    /// A step was launched that reads blocks, until `last` has been computed.
    pub(crate) fn set_reader(&self, last: Array) {
        self.blocks.memory.set_reader(last);
    }

    pub(crate) fn sequence(&self) -> GatheredSequence {
        GatheredSequence::new(BlockTable::new(&self.blocks), &self.blocks, &self.between)
    }

    /// A step, which nobody waits for if the one `before` has not been computed.
    ///
    /// # Errors
    /// There is no memory, or the step before has to be computed first.
    pub(crate) fn begin<'a>(
        &self,
        mut rows: Vec<RowMemory<'a, GatheredSequence>>,
        before: StepBefore,
    ) -> Result<GatheredStep<'a>, KvError> {
        // What is left of a step that has failed.
        self.between.state().pending = None;
        let mut last = 0;
        for RowMemory { position, new_tokens, memory } in &mut rows {
            let blocks = memory.table.reserve(*position, *new_tokens)?;
            last = blocks.iter().copied().fold(last, i32::max);
            memory.next = self.between.state().stamp();
        }
        let rows: Vec<Row<'_>> = rows.iter().map(row).collect();
        let groups = Groups::new(&rows, self.together, before != StepBefore::Computed, &self.between);
        let later = before == StepBefore::ReadsBlocks;
        if later && groups.read_blocks() {
            return Err(KvError::InUse);
        }
        self.blocks.memory.prepare(last, later)?;
        Ok(GatheredStep::new(&self.blocks, &self.between, &rows, groups))
    }
}

impl GatheredSequence {
    fn new(
        table: BlockTable<ArrayBlocks>,
        blocks: &Arc<SharedBlocks<ArrayBlocks>>,
        between: &Arc<Between>,
    ) -> Self {
        let stamp = between.state().stamp();
        Self { table, blocks: Arc::clone(blocks), between: Arc::clone(between), stamp, next: stamp }
    }

    /// Gives back the blocks that only tokens from `len` on need. A copy may go on having them: they are not seen.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.between.state().forget_spares();
        self.table.truncate(len);
    }

    pub(crate) fn fork(&self, len: usize) -> Self {
        Self::new(self.table.fork(len), &self.blocks, &self.between)
    }

    /// See [`BlockTable::bytes_of`].
    pub(crate) fn bytes_of(&self, tokens: usize) -> usize {
        self.table.bytes_of(tokens)
    }

    pub(crate) fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, KvError> {
        self.table.export(tokens)
    }

    /// Appends the keys and values that [`export`](Self::export) gave of as many `tokens`.
    pub(crate) fn import(&mut self, tokens: Range<usize>, bytes: &[u8]) -> Result<(), KvError> {
        self.stamp = self.between.state().stamp();
        self.next = self.stamp;
        self.table.import(tokens, bytes)
    }

    /// The step has been computed: its tokens are there to stay, those of all of its rows.
    pub(crate) fn commit(&mut self) {
        self.stamp = self.next;
        if let Some((slots, layers)) = self.between.state().commit() {
            self.blocks.memory.append(Appended { slots, layers });
        }
    }
}

fn row<'a>(row: &'a RowMemory<'_, GatheredSequence>) -> Row<'a> {
    let RowMemory { position, new_tokens, memory } = row;
    Row {
        position: *position as i32,
        new: *new_tokens as i32,
        blocks: memory.table.blocks(),
        stamps: (memory.stamp, memory.next),
    }
}

#[cfg(test)]
mod tests;
