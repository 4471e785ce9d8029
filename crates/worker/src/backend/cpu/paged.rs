//! Keys and values in blocks of one pool, and attention on them.

use mlx_ext::cpu::{Attention, KvPool, KvShape, Step, StepRow};
use mlx_rs::{Array, error::Exception};

use super::super::{
    attention::AttentionSpec,
    block_table::{BlockMemory, other_bytes},
    geometry::LayerKind,
    kind_blocks::{KindBlocks, KindTable},
    kv::{KvDtype, KvError, RowMemory},
    rope::Table,
};

/// What all sequences have in the layers of one kind.
pub(crate) struct PagedKv {
    blocks: KindBlocks<KvPool>,
}

/// A sequence's blocks in order.
pub(crate) type PagedSequence = KindTable<KvPool>;

/// The rows of a step.
pub(crate) struct PagedStep {
    step: Step,
    /// The most tokens that a row has after the step.
    longest: usize,
}

impl PagedKv {
    /// `blocks` of them.
    pub(crate) fn new(kind: LayerKind, blocks: i32, dtype: KvDtype) -> Result<Self, KvError> {
        let LayerKind { layers, heads, reach } = kind;
        let shape = KvShape { layers, kv_heads: heads.kv, head_dim: heads.dim, dtype };
        Ok(Self { blocks: KindBlocks::new(KvPool::new(shape, blocks)?, blocks, reach) })
    }

    /// Says how many blocks are in use.
    pub(crate) fn used_blocks(&self) -> Box<dyn Fn() -> usize + Send> {
        self.blocks.used()
    }

    pub(crate) fn sequence(&self) -> PagedSequence {
        self.blocks.table()
    }

    pub(crate) fn begin(&self, rows: Vec<RowMemory<'_, PagedSequence>>) -> Result<PagedStep, KvError> {
        let mut step_rows = Vec::with_capacity(rows.len());
        let mut longest = 0;
        for RowMemory { position, new_tokens, memory } in rows {
            let blocks = memory.reserve(position, new_tokens)?;
            longest = longest.max(position + new_tokens);
            step_rows.push(StepRow { new_tokens: new_tokens as i32, position: position as i32, blocks });
        }
        Ok(PagedStep { step: self.blocks.memory().step(&step_rows)?, longest })
    }
}

/// One block's bytes after the other's.
impl BlockMemory for KvPool {
    fn block_bytes(&self) -> usize {
        Self::block_bytes(self.shape()) as usize
    }

    fn copy_block(&self, from: i32, to: i32) -> Result<(), Exception> {
        Self::copy_block(self, from, to)
    }

    fn read_blocks(&self, blocks: &[i32]) -> Result<Vec<u8>, Exception> {
        let block_bytes = BlockMemory::block_bytes(self);
        let mut bytes = vec![0; blocks.len() * block_bytes];
        for (&block, bytes) in blocks.iter().zip(bytes.chunks_exact_mut(block_bytes)) {
            self.read_block(block, bytes)?;
        }
        Ok(bytes)
    }

    fn write_blocks(&self, blocks: &[i32], bytes: &[u8]) -> Result<(), Exception> {
        let parts = bytes.chunks(BlockMemory::block_bytes(self));
        if parts.len() != blocks.len() {
            return Err(other_bytes());
        }
        blocks.iter().zip(parts).try_for_each(|(&block, bytes)| self.write_block(block, bytes))
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
            none = Table::new(&[], self.longest, 1.0);
            &none
        };
        let query_scale = spec.query_scale.as_ref().map(|scale| scale.table(self.longest));
        self.step.attend(&Attention {
            qkv,
            appends: !spec.borrows(),
            cos: &table.cos,
            sin: &table.sin,
            layer: layer as i32,
            heads: spec.heads.queries,
            query_scale: query_scale.as_deref(),
            sinks: spec.sinks.as_ref(),
            scale: spec.scale,
            soft_cap: spec.soft_cap,
            window: spec.window,
            chunked: spec.chunked,
            traditional: spec.rope.as_ref().is_some_and(|rope| rope.traditional()),
        })
    }
}
