//! Memory for the keys and values of all sequences: each kind of layers has blocks of its own, and a sequence a table of
//! them for each kind.

use std::rc::Rc;

use mlx_rs::{Array, Dtype, error::Exception};

use super::{
    attention::Reach,
    cpu,
    geometry::{KvGeometry, LayerKind, LayerPlace},
    kv::{KvBudget, KvDtype, KvError, KvWindows, RowMemory, StepBefore, value_bytes},
    kv_division::{BlockBytes, Division, forgetting, longest_stretch},
    kv_sequence::{KindSequence, SequenceMemory},
    mlx,
    step::{KindStep, KvStep},
};

/// Memory for the keys and values of all sequences.
pub(crate) struct KvMemory {
    kinds: Vec<Kind>,
    geometry: KvGeometry,
    places: Rc<[LayerPlace]>,
    /// Tokens for which there is memory in layers that keep everything.
    tokens: usize,
    /// In those that do not.
    windows: Option<KvWindows>,
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

impl KvStorage {
    /// Bytes of a component.
    pub(super) fn value_bytes(self) -> u64 {
        match self {
            Self::Paged(KvDtype::Float16) => 2,
            Self::Paged(KvDtype::Float32) => 4,
            Self::Gathered { dtype, .. } => value_bytes(dtype),
        }
    }

    fn has_copies(self) -> bool {
        matches!(self, Self::Gathered { together: true, .. })
    }

    fn most_blocks(self, kind: LayerKind) -> i32 {
        match self {
            Self::Paged(_) => i32::MAX,
            Self::Gathered { .. } => mlx::GatheredKv::most_blocks(kind),
        }
    }

    fn memory(self, kind: LayerKind, division: Division) -> Result<KindMemory, KvError> {
        let blocks = match (kind.reach, division.windows) {
            (Reach::Window(_) | Reach::Chunk(_), Some(windows)) => windows.count,
            _ => division.blocks.count,
        };
        Ok(match self {
            Self::Paged(dtype) => KindMemory::Paged(cpu::PagedKv::new(kind, blocks, dtype)?),
            Self::Gathered { dtype, together } => {
                let copied = if together { division.copied } else { 0 };
                KindMemory::Gathered(mlx::GatheredKv::new(kind, blocks, copied, dtype, together)?)
            }
        })
    }
}

impl KvMemory {
    /// Memory for layers of which each kind is kept as `storage` says, and for sequences of at most `context` tokens.
    ///
    /// # Errors
    /// The budget is too small, or there is no address space.
    pub(super) fn new(
        geometry: &KvGeometry,
        budget: KvBudget,
        context: usize,
        storage: impl Fn(LayerKind) -> KvStorage,
    ) -> Result<Self, KvError> {
        let stored = |geometry: &KvGeometry| {
            let kinds: Vec<_> = geometry.kinds().iter().map(|&kind| (kind, storage(kind))).collect();
            let copies = kinds.iter().any(|(_, storage)| storage.has_copies());
            (kinds, copies)
        };
        let windowed = forgetting(geometry, budget, context);
        if let Some(stretch) = longest_stretch(&windowed, budget) {
            let (kinds, copies) = stored(&windowed);
            let division = Division::with_windows(budget, block_bytes(&kinds), (stretch, context), copies);
            if let Some(division) = division {
                return Self::divided(windowed, &kinds, division);
            }
        }
        let whole = geometry.keeping(|_| false);
        let (kinds, copies) = stored(&whole);
        let division = Division::whole(budget, block_bytes(&kinds), copies)?;
        Self::divided(whole, &kinds, division)
    }

    fn divided(
        geometry: KvGeometry,
        kinds: &[(LayerKind, KvStorage)],
        division: Division,
    ) -> Result<Self, KvError> {
        let most = kinds.iter().map(|(kind, storage)| storage.most_blocks(*kind)).min();
        let division = division.at_most(most.unwrap_or(i32::MAX));
        let kind = |&(kind, storage): &(LayerKind, KvStorage)| {
            let block_bytes = kind.block_bytes(storage.value_bytes());
            Ok(Kind { memory: storage.memory(kind, division)?, block_bytes })
        };
        let kinds = kinds.iter().map(kind).collect::<Result<_, KvError>>()?;
        let (tokens, windows) = (division.blocks.tokens, division.windows.map(|share| share.promised));
        Ok(Self { kinds, places: geometry.places().into(), geometry, tokens, windows })
    }

    /// The kinds that it has blocks for: of layers with a window, only those that do not keep everything have one here.
    pub(crate) fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    /// What is held in layers that do not keep everything, if there are any.
    pub(crate) fn windows(&self) -> Option<KvWindows> {
        self.windows
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
        Ok(KvStep::Kept { kinds, places: Rc::clone(&self.places) })
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

/// Of all layers that are kept so.
fn block_bytes(kinds: &[(LayerKind, KvStorage)]) -> BlockBytes {
    let mut bytes = BlockBytes { all: 0, windows: 0 };
    for (kind, storage) in kinds {
        let of = if kind.reach == Reach::All { &mut bytes.all } else { &mut bytes.windows };
        *of = of.saturating_add(kind.block_bytes(storage.value_bytes()));
    }
    bytes
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

#[cfg(test)]
mod tests;
