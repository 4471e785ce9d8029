//! What a model remembers of a sequence between two steps, and the memory that this takes.

use std::ops::Range;

use mlx_rs::{Array, error::Exception};

use super::ModelError;
use crate::{
    backend::{
        AttentionSpec, Backend, KvBudget, KvError, KvGeometry, KvInUse, KvMemory, RowMemory, SequenceMemory,
        StepBefore, StepMemory,
    },
    cache::{BLOCK_TOKENS, Fork},
};

/// Where sequences get their memory from.
pub(super) struct KvCache {
    memory: KvMemory,
    identity: String,
    token_bytes: usize,
}

/// What attention remembers of a sequence, in every layer: the keys and values of its tokens.
pub struct SequenceKv {
    memory: SequenceMemory,
    len: usize,
}

impl KvCache {
    /// Memory for layers of this geometry.
    pub(super) fn new(geometry: KvGeometry, budget: KvBudget, backend: Backend) -> Result<Self, KvError> {
        Ok(Self {
            memory: backend.kv_memory(geometry, budget)?,
            identity: backend.kv_identity(geometry, budget),
            token_bytes: backend.kv_token_bytes(geometry, budget),
        })
    }

    /// Says how many bytes are in use, in whole blocks.
    pub(super) fn in_use(&self) -> KvInUse {
        let (used, block_bytes) = (self.memory.used_blocks(), (BLOCK_TOKENS * self.token_bytes) as u64);
        Box::new(move || used() as u64 * block_bytes)
    }

    /// Tokens for which there is memory, whichever of the budget's sequences hold them.
    pub(super) fn tokens(&self) -> usize {
        self.memory.tokens()
    }

    /// Whether attention gives a token the same, whatever is computed beside it, of its own sequence and of others.
    pub(super) fn is_invariant(&self) -> bool {
        // Only the CPU's own does.
        matches!(self.memory, KvMemory::Paged(_))
    }

    /// Everything that keys and values depend on, besides the weights and the tokens.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// Bytes of a token's keys and values.
    pub(super) fn token_bytes(&self) -> usize {
        self.token_bytes
    }

    /// Forgets what the last `steps` steps have appended.
    pub(super) fn abandon(&self, steps: usize) {
        self.memory.abandon(steps);
    }

    /// A step was launched that reads what all sequences have, until `last` has been computed.
    pub(super) fn set_reader(&self, last: Array) {
        self.memory.set_reader(last);
    }

    /// An empty sequence.
    pub(super) fn sequence(&self) -> SequenceKv {
        SequenceKv { memory: self.memory.sequence(), len: 0 }
    }

    /// Makes room for a step's new tokens. `rows` are sequences and how many new tokens each of them gets. The step
    /// `before` may still be computed.
    pub(super) fn begin<'a>(
        &self,
        rows: impl Iterator<Item = (&'a mut SequenceKv, usize)>,
        before: StepBefore,
    ) -> Result<StepMemory<'a>, KvError> {
        let row = |(kv, new_tokens): (&'a mut SequenceKv, usize)| RowMemory {
            position: kv.len,
            new_tokens,
            memory: &mut kv.memory,
        };
        self.memory.begin(rows.map(row).collect(), before)
    }
}

/// The geometry of layers of these kinds, if there can be memory for them.
pub(super) fn geometry(layers: &[&AttentionSpec], backend: Backend) -> Result<KvGeometry, ModelError> {
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
    Ok(KvGeometry { layers: layers.len() as i32, heads: first.heads })
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

    /// Forgets every token from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.memory.truncate(self.len);
    }

    /// Keys and values of some tokens as bytes, which mean the same to every sequence of the same model, computed in the
    /// same way.
    ///
    /// # Errors
    /// The sequence does not have them, or they are not whole blocks where there are blocks.
    pub fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, ModelError> {
        if tokens.end > self.len {
            return Err(
                Exception::custom(format!("a sequence of {} tokens has not {tokens:?}", self.len)).into()
            );
        }
        Ok(self.memory.export(tokens)?)
    }

    /// Appends the keys and values that [`export`](Self::export) gave of as many `tokens`.
    ///
    /// # Errors
    /// There is no memory for them, or they are others.
    pub fn import(&mut self, tokens: usize, bytes: &[u8]) -> Result<(), ModelError> {
        self.memory.import(self.len..self.len + tokens, bytes)?;
        self.len += tokens;
        Ok(())
    }

    /// Counts `tokens` that every layer has appended.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
        self.memory.commit();
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
