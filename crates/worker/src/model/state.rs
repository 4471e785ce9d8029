//! What a model remembers of a sequence between two steps, and the memory that this takes.

use mlx_rs::Array;

use super::ModelError;
use crate::{
    backend::{
        AttentionSpec, Backend, KvBudget, KvError, KvGeometry, KvMemory, RowMemory, SequenceMemory,
        StepMemory,
    },
    cache::Fork,
};

/// Where sequences get their memory from.
pub(super) struct KvCache {
    memory: KvMemory,
}

/// What attention remembers of a sequence, in every layer: the keys and values of its tokens.
pub struct SequenceKv {
    memory: SequenceMemory,
    len: usize,
}

impl KvCache {
    /// Memory for layers of these kinds.
    pub(super) fn new(
        layers: &[&AttentionSpec],
        budget: KvBudget,
        backend: Backend,
    ) -> Result<Self, ModelError> {
        for (layer, spec) in layers.iter().enumerate() {
            if let Some(what) = backend.unsupported(spec) {
                return Err(ModelError::UnsupportedAttention { layer, what });
            }
            // A block holds all layers' keys and values of its tokens.
            if spec.heads != layers[0].heads {
                let what = "another number or size of heads than in the first layer";
                return Err(ModelError::UnsupportedAttention { layer, what });
            }
        }
        let Some(first) = layers.first() else { return Err(ModelError::NoLayers) };
        let geometry = KvGeometry { layers: layers.len() as i32, heads: first.heads };
        Ok(Self { memory: backend.kv_memory(geometry, budget)? })
    }

    /// Tokens for which there is memory, whichever of the budget's sequences hold them.
    pub(super) fn tokens(&self) -> usize {
        self.memory.tokens()
    }

    /// Tokens of the unit in which sequences share memory, if they do.
    pub(super) fn shared_block(&self) -> Option<usize> {
        self.memory.shared_block()
    }

    /// An empty sequence.
    pub(super) fn sequence(&self) -> SequenceKv {
        SequenceKv { memory: self.memory.sequence(), len: 0 }
    }

    /// Makes room for a step's new tokens. `rows` are sequences and how many new tokens each of them gets.
    pub(super) fn begin<'a>(
        &self,
        rows: impl Iterator<Item = (&'a mut SequenceKv, usize)>,
    ) -> Result<StepMemory<'a>, KvError> {
        let row = |(kv, new_tokens): (&'a mut SequenceKv, usize)| RowMemory {
            position: kv.len,
            new_tokens,
            memory: &mut kv.memory,
        };
        self.memory.begin(rows.map(row).collect())
    }
}

impl SequenceKv {
    /// Tokens that the sequence has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the sequence has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the sequence can go on after a step that failed. If not, it has to be computed again from its first token.
    pub fn is_intact(&self) -> bool {
        self.memory.is_intact()
    }

    /// Forgets every token from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.memory.truncate(self.len);
    }

    /// Counts `tokens` that every layer has appended.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
        self.memory.commit();
    }

    /// The arrays that a step has changed and has to evaluate.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.memory.arrays()
    }
}

impl Fork for SequenceKv {
    /// Another sequence with the first `len` tokens of this one. The two share the memory of these tokens; it is copied
    /// where one of them writes to what both use.
    fn fork(&self, len: usize) -> Self {
        let len = self.len.min(len);
        Self { memory: self.memory.fork(len), len }
    }
}

#[cfg(test)]
mod tests;
