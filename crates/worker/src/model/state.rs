//! What a model remembers of a sequence between two steps, and the memory that this takes.

use std::ops::Range;

use mlx_rs::{Array, error::Exception};

use super::ModelError;
use crate::{
    backend::{
        AttentionSpec, Backend, KvBudget, KvError, KvGeometry, KvInUse, KvMemory, KvWindows, RowMemory,
        SequenceMemory, SequenceState, StateGeometry, StateMemory, StateRow, StepBefore, StepMemory, divide,
    },
    cache::Fork,
};

/// Where sequences get their memory from.
pub(super) struct KvCache {
    memory: KvMemory,
    /// If layers keep states.
    states: Option<StateMemory>,
    identity: String,
    token_bytes: usize,
}

/// What layers remember of a sequence: the keys and values of its tokens, and perhaps states.
pub struct SequenceKv {
    memory: SequenceMemory,
    state: Option<SequenceState>,
    len: usize,
}

/// A sequence's part of a step.
pub(super) struct KvRow<'a> {
    pub(super) kv: &'a mut SequenceKv,
    /// How many it gets.
    pub(super) new_tokens: usize,
    /// Whether a token is chosen behind them.
    pub(super) samples: bool,
}

impl KvCache {
    /// Memory for layers of these geometries, and for sequences of at most `context` tokens.
    pub(super) fn new(
        geometry: &KvGeometry,
        states: &StateGeometry,
        budget: KvBudget,
        context: usize,
        backend: Backend,
    ) -> Result<Self, KvError> {
        let token_bytes = backend.kv_token_bytes(geometry, budget);
        let (kv, states) = if states.parts.is_empty() {
            (budget, None)
        } else {
            let divided = divide(budget, backend.state_bytes(states), token_bytes as u64)?;
            // States say already where a sequence can go on. No model of which we know has windows, too.
            let kv = KvBudget { step_tokens: None, ..divided.kv };
            (kv, Some(backend.state_memory(states, divided)?))
        };
        let memory = backend.kv_memory(geometry, kv, context)?;
        let identity = backend.kv_identity(memory.geometry(), budget);
        Ok(Self { memory, states, identity, token_bytes })
    }

    /// Says how many bytes are in use, in whole blocks and states.
    pub(super) fn in_use(&self) -> KvInUse {
        let (used, states) = (self.memory.used_bytes(), self.states.as_ref().map(StateMemory::used_bytes));
        Box::new(move || used() + states.as_ref().map_or(0, |states| states()))
    }

    /// Whether layers keep states: then a sequence can be cut only where one is.
    pub(super) fn has_states(&self) -> bool {
        self.states.is_some()
    }

    /// Sequences that may be in a step at the same time. One more may have memory, or any number if there are no states.
    pub(super) fn sequences(&self) -> usize {
        self.states.as_ref().map_or(usize::MAX, StateMemory::sequences)
    }

    /// What is held in layers that keep no more than their windows reach, if there are any.
    pub(super) fn windows(&self) -> Option<KvWindows> {
        self.memory.windows()
    }

    /// Tokens for which there is memory, whichever of the budget's sequences hold them.
    pub(super) fn tokens(&self) -> usize {
        self.memory.tokens()
    }

    /// Whether attention gives a token the same, whatever is computed beside it, of its own sequence and of others.
    pub(super) fn is_invariant(&self) -> bool {
        self.memory.is_invariant()
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
    pub(super) fn set_reader(&self, last: &Array) {
        self.memory.set_reader(last);
    }

    /// An empty sequence.
    pub(super) fn sequence(&self) -> SequenceKv {
        let state = self.states.as_ref().map(StateMemory::sequence);
        SequenceKv { memory: self.memory.sequence(), state, len: 0 }
    }

    /// Makes room for a step's new tokens. The step `before` may still be computed.
    pub(super) fn begin<'a>(
        &self,
        rows: impl Iterator<Item = KvRow<'a>>,
        before: StepBefore,
    ) -> Result<StepMemory<'a>, KvError> {
        let (mut memories, mut states) = (Vec::new(), Vec::new());
        for KvRow { kv, new_tokens, samples } in rows {
            let position = kv.len;
            states.extend(kv.state.as_mut().map(|state| StateRow { position, new_tokens, samples, state }));
            memories.push(RowMemory { position, new_tokens, memory: &mut kv.memory });
        }
        let states = self.states.as_ref().map(|memory| memory.begin(states)).transpose()?;
        Ok(StepMemory::new(self.memory.begin(memories, before)?, states))
    }
}

/// The geometry of layers of these kinds, if there can be memory for them.
pub(super) fn geometry(layers: &[&AttentionSpec], backend: Backend) -> Result<KvGeometry, ModelError> {
    for (layer, spec) in layers.iter().enumerate() {
        if let Some(what) = backend.unsupported(spec) {
            return Err(ModelError::UnsupportedAttention { layer, what });
        }
    }
    if layers.is_empty() {
        return Err(ModelError::NoLayers);
    }
    let own = layers.iter().filter(|spec| !spec.borrows());
    Ok(KvGeometry::new(own.map(|spec| (spec.heads.into(), spec.reach()))))
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

    /// Forgets every token from `len` on. Of a model with states the sequence can go on only from where one is kept, and of one
    /// with windows only from a place that is no more than a block before where the last step began.
    pub fn truncate(&mut self, len: usize) {
        let all = self.len;
        self.len = all.min(len);
        self.memory.truncate(self.len);
        self.state.iter_mut().for_each(|state| state.truncate(self.len, all));
    }

    /// Asks for a state to be kept behind the first `len` tokens, which are not computed yet; nothing if there are none.
    pub fn mark(&mut self, len: usize) {
        self.state.iter_mut().for_each(|state| state.mark(len));
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
        self.state.iter_mut().for_each(|state| state.commit(self.len));
    }
}

impl Fork for SequenceKv {
    /// Another sequence with the first `len` tokens of this one. The two share the memory of these tokens; it is copied
    /// where one of them writes to what both use.
    fn fork(&self, len: usize) -> Self {
        let len = self.len.min(len);
        let state = self.state.as_ref().map(|state| state.fork(len, self.len));
        Self { memory: self.memory.fork(len), state, len }
    }

    fn fork_point(&self, len: usize) -> usize {
        let len = self.len.min(len);
        self.state
            .as_ref()
            .map_or_else(|| self.memory.fork_point(len), |state| state.fork_point(len, self.len))
    }

    fn resume(&self, len: usize) -> Option<Self> {
        let len = self.len.min(len);
        let state = match &self.state {
            Some(state) => Some(state.resume(len, self.len)?),
            None => None,
        };
        Some(Self { memory: self.memory.resume(len)?, state, len })
    }

    fn adopt(&mut self, other: &Self, len: usize) {
        let len = len.min(self.len).min(other.len);
        self.memory.adopt(&other.memory, len);
        if let (Some(own), Some(state)) = (&mut self.state, &other.state) {
            own.adopt(state, len);
        }
    }
}

#[cfg(test)]
mod tests;
