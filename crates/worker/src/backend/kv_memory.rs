//! Memory for the keys and values of all sequences: each kind of layers has blocks of its own, and a sequence a table of
//! them for each kind.

use std::{ops::Range, rc::Rc};

use mlx_rs::{Array, Dtype, error::Exception};

use super::{
    block_table::other_bytes,
    cpu,
    geometry::{KvGeometry, LayerKind, LayerPlace},
    kv::{Blocks, KvBudget, KvDtype, KvError, RowMemory, StepBefore, value_bytes},
    mlx,
    step::{KindStep, KvStep},
};
use crate::cache::BLOCK_TOKENS;

/// One part in so many of the budget is for copies of gathered keys and values.
const COPIES: u64 = 5;

/// Memory for the keys and values of all sequences.
pub(crate) struct KvMemory {
    kinds: Vec<Kind>,
    places: Rc<[LayerPlace]>,
    /// Tokens for which there is memory.
    tokens: usize,
}

/// What one sequence has of it, kind by kind.
pub(crate) struct SequenceMemory {
    kinds: Vec<KindSequence>,
}

/// How keys and values of a kind of layers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KvStorage {
    /// In blocks that kernels find by a table.
    Paged(KvDtype),
    /// In blocks that are gathered for a step.
    Gathered {
        dtype: Dtype,
        /// Whether rows may attend together, from copies: else their results do not depend on each other.
        together: bool,
    },
}

struct Kind {
    memory: KindMemory,
    block_bytes: u64,
}

enum KindMemory {
    Paged(cpu::PagedKv),
    Gathered(mlx::GatheredKv),
}

enum KindSequence {
    Paged(cpu::PagedSequence),
    Gathered(mlx::GatheredSequence),
}

/// What a budget amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Division {
    /// Of each kind.
    blocks: Blocks,
    /// Tokens of which copies may be kept.
    copied: usize,
}

impl KvStorage {
    /// Bytes of a component.
    pub(super) fn value_bytes(self) -> u64 {
        match self {
            Self::Paged(KvDtype::Float16) => 2,
            Self::Paged(KvDtype::Float32) => 4,
            Self::Gathered { dtype, .. } => value_bytes(dtype),
        }
    }

    fn most_blocks(self, kind: LayerKind) -> i32 {
        match self {
            Self::Paged(_) => i32::MAX,
            Self::Gathered { .. } => mlx::GatheredKv::most_blocks(kind),
        }
    }

    fn memory(self, kind: LayerKind, division: Division) -> Result<KindMemory, KvError> {
        let blocks = division.blocks.count;
        Ok(match self {
            Self::Paged(dtype) => KindMemory::Paged(cpu::PagedKv::new(kind, blocks, dtype)?),
            Self::Gathered { dtype, together } => {
                let copied = if together { division.copied } else { 0 };
                KindMemory::Gathered(mlx::GatheredKv::new(kind, blocks, copied, dtype, together)?)
            }
        })
    }
}

impl Division {
    /// All kinds hold as many tokens. `block_bytes` are those of a block of all of them.
    fn new(budget: KvBudget, block_bytes: u64, copies: bool) -> Result<Self, KvError> {
        let copies = if copies { budget.bytes / COPIES } else { 0 };
        let without = KvBudget { bytes: budget.bytes - copies, ..budget };
        let (blocks, copies) = match Blocks::of(without, block_bytes) {
            Ok(blocks) => (blocks, copies),
            // There is no memory to spare.
            Err(_) => (Blocks::of(budget, block_bytes)?, 0),
        };
        Ok(Self { blocks, copied: (copies / block_bytes.max(1)) as usize * BLOCK_TOKENS })
    }

    /// The same with no more than `most` blocks of a kind.
    fn at_most(mut self, most: i32) -> Self {
        let Blocks { count, tokens } = &mut self.blocks;
        let unused = (*count - most).max(0);
        *count -= unused;
        *tokens = tokens.saturating_sub(unused.unsigned_abs() as usize * BLOCK_TOKENS);
        self
    }
}

impl KvMemory {
    /// Memory for layers of which each kind is kept as `storage` says.
    ///
    /// # Errors
    /// The budget is too small, or there is no address space.
    pub(super) fn new(
        geometry: &KvGeometry,
        budget: KvBudget,
        storage: impl Fn(LayerKind) -> KvStorage,
    ) -> Result<Self, KvError> {
        let kinds: Vec<_> = geometry.kinds().iter().map(|&kind| (kind, storage(kind))).collect();
        let block_bytes = |&(kind, storage): &(LayerKind, KvStorage)| kind.block_bytes(storage.value_bytes());
        let all = kinds.iter().map(block_bytes).fold(0, u64::saturating_add);
        let copies =
            kinds.iter().any(|(_, storage)| matches!(storage, KvStorage::Gathered { together: true, .. }));
        let most = kinds.iter().map(|(kind, storage)| storage.most_blocks(*kind)).min();
        let division = Division::new(budget, all, copies)?.at_most(most.unwrap_or(i32::MAX));
        let kind = |all @ &(kind, storage): &(LayerKind, KvStorage)| {
            Ok(Kind { memory: storage.memory(kind, division)?, block_bytes: block_bytes(all) })
        };
        let kinds = kinds.iter().map(kind).collect::<Result<_, KvError>>()?;
        Ok(Self { kinds, places: geometry.places().into(), tokens: division.blocks.tokens })
    }

    /// Tokens for which there is memory, whichever of the budget's sequences hold them.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether attention gives a token the same, whatever is computed beside it. Only the CPU's own does.
    pub(crate) fn is_invariant(&self) -> bool {
        self.kinds.iter().all(|kind| matches!(kind.memory, KindMemory::Paged(_)))
    }

    /// Says how many bytes are in use, in whole blocks and without copies. Any thread may ask.
    pub(crate) fn used_bytes(&self) -> Box<dyn Fn() -> u64 + Send> {
        let used = |kind: &Kind| (kind.memory.used_blocks(), kind.block_bytes);
        let kinds: Vec<_> = self.kinds.iter().map(used).collect();
        Box::new(move || kinds.iter().map(|(used, block_bytes)| used() as u64 * block_bytes).sum())
    }

    /// Forgets what the last `steps` steps have appended. Their sequences are truncated.
    pub(crate) fn abandon(&self, steps: usize) {
        self.gathered().for_each(|memory| memory.abandon(steps));
    }

    /// A step was launched that reads blocks, until `last` has been computed.
    pub(crate) fn set_reader(&self, last: &Array) {
        self.gathered().for_each(|memory| memory.set_reader(last.clone()));
    }

    /// What a sequence without tokens has.
    pub(crate) fn sequence(&self) -> SequenceMemory {
        SequenceMemory { kinds: self.kinds.iter().map(|kind| kind.memory.sequence()).collect() }
    }

    /// Makes room for the rows' new tokens.
    ///
    /// # Errors
    /// There is not enough memory, or the step before has to be computed first.
    pub(crate) fn begin<'a>(
        &self,
        rows: Vec<RowMemory<'a, SequenceMemory>>,
        before: StepBefore,
    ) -> Result<KvStep<'a>, KvError> {
        let mut by_kind: Vec<Vec<_>> = self.kinds.iter().map(|_| Vec::with_capacity(rows.len())).collect();
        for RowMemory { position, new_tokens, memory } in rows {
            if memory.kinds.len() != by_kind.len() {
                return Err(of_another_model().into());
            }
            for (rows, memory) in by_kind.iter_mut().zip(&mut memory.kinds) {
                rows.push(RowMemory { position, new_tokens, memory });
            }
        }
        let kinds = self.kinds.iter().zip(by_kind);
        let kinds = kinds.map(|(kind, rows)| kind.memory.begin(rows, before)).collect::<Result<_, _>>()?;
        Ok(KvStep::new(kinds, Rc::clone(&self.places)))
    }

    fn gathered(&self) -> impl Iterator<Item = &mlx::GatheredKv> {
        self.kinds.iter().filter_map(|kind| match &kind.memory {
            KindMemory::Gathered(memory) => Some(memory),
            KindMemory::Paged(_) => None,
        })
    }
}

impl KindMemory {
    fn used_blocks(&self) -> Box<dyn Fn() -> usize + Send> {
        match self {
            Self::Paged(memory) => memory.used_blocks(),
            Self::Gathered(memory) => memory.used_blocks(),
        }
    }

    fn sequence(&self) -> KindSequence {
        match self {
            Self::Paged(memory) => KindSequence::Paged(memory.sequence()),
            Self::Gathered(memory) => KindSequence::Gathered(memory.sequence()),
        }
    }

    fn begin<'a>(
        &self,
        rows: Vec<RowMemory<'a, KindSequence>>,
        before: StepBefore,
    ) -> Result<KindStep<'a>, KvError> {
        match self {
            Self::Paged(memory) => memory.begin(alike(rows, KindSequence::paged)?).map(KindStep::Paged),
            Self::Gathered(memory) => {
                memory.begin(alike(rows, KindSequence::gathered)?, before).map(KindStep::Gathered)
            }
        }
    }
}

/// The rows, if all of their sequences are of the same model as the memory.
fn alike<'a, M>(
    rows: Vec<RowMemory<'a, KindSequence>>,
    of: fn(&'a mut KindSequence) -> Option<&'a mut M>,
) -> Result<Vec<RowMemory<'a, M>>, KvError> {
    let row = |RowMemory { position, new_tokens, memory }| {
        Ok(RowMemory { position, new_tokens, memory: of(memory).ok_or_else(of_another_model)? })
    };
    rows.into_iter().map(row).collect()
}

fn of_another_model() -> Exception {
    Exception::custom("a step has a sequence of another model")
}

impl SequenceMemory {
    /// Gives back what only tokens from `len` on need.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.kinds.iter_mut().for_each(|kind| kind.truncate(len));
    }

    /// The memory of another sequence that begins with the first `len` tokens of this one. Nothing is copied until one of
    /// the two writes to what they share.
    pub(crate) fn fork(&self, len: usize) -> Self {
        Self { kinds: self.kinds.iter().map(|kind| kind.fork(len)).collect() }
    }

    /// Keys and values of some tokens as bytes, one kind's behind the other's, which mean the same to every sequence of the
    /// same model and backend.
    ///
    /// # Errors
    /// The sequence does not have them, or they are not whole blocks.
    pub(crate) fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, KvError> {
        let mut bytes = Vec::with_capacity(self.bytes_of(tokens.len()));
        for kind in &self.kinds {
            bytes.extend(kind.export(tokens.clone())?);
        }
        Ok(bytes)
    }

    /// Appends the keys and values that [`export`](Self::export) gave of as many `tokens`.
    ///
    /// # Errors
    /// There is no memory for them, or they are others.
    pub(crate) fn import(&mut self, tokens: Range<usize>, mut bytes: &[u8]) -> Result<(), KvError> {
        if bytes.len() != self.bytes_of(tokens.len()) {
            return Err(other_bytes().into());
        }
        for kind in &mut self.kinds {
            let (own, rest) = bytes.split_at(kind.bytes_of(tokens.len()));
            kind.import(tokens.clone(), own)?;
            bytes = rest;
        }
        Ok(())
    }

    /// What a step has appended is there to stay.
    pub(crate) fn commit(&mut self) {
        for kind in &mut self.kinds {
            if let KindSequence::Gathered(sequence) = kind {
                sequence.commit();
            }
        }
    }

    fn bytes_of(&self, tokens: usize) -> usize {
        self.kinds.iter().map(|kind| kind.bytes_of(tokens)).fold(0, usize::saturating_add)
    }
}

impl KindSequence {
    fn paged(&mut self) -> Option<&mut cpu::PagedSequence> {
        if let Self::Paged(sequence) = self { Some(sequence) } else { None }
    }

    fn gathered(&mut self) -> Option<&mut mlx::GatheredSequence> {
        if let Self::Gathered(sequence) = self { Some(sequence) } else { None }
    }

    fn truncate(&mut self, len: usize) {
        match self {
            Self::Paged(sequence) => sequence.truncate(len),
            Self::Gathered(sequence) => sequence.truncate(len),
        }
    }

    fn fork(&self, len: usize) -> Self {
        match self {
            Self::Paged(sequence) => Self::Paged(sequence.fork(len)),
            Self::Gathered(sequence) => Self::Gathered(sequence.fork(len)),
        }
    }

    /// Bytes of the keys and values of so many whole blocks' tokens.
    fn bytes_of(&self, tokens: usize) -> usize {
        match self {
            Self::Paged(sequence) => sequence.bytes_of(tokens),
            Self::Gathered(sequence) => sequence.bytes_of(tokens),
        }
    }

    fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, KvError> {
        match self {
            Self::Paged(sequence) => sequence.export(tokens),
            Self::Gathered(sequence) => sequence.export(tokens),
        }
    }

    fn import(&mut self, tokens: Range<usize>, bytes: &[u8]) -> Result<(), KvError> {
        match self {
            Self::Paged(sequence) => sequence.import(tokens, bytes),
            Self::Gathered(sequence) => sequence.import(tokens, bytes),
        }
    }
}

#[cfg(test)]
mod tests;
