//! What computes. Layers ask a [`Backend`], which is chosen once when a model is loaded; this file is the only place that
//! chooses a device or a kernel.
//!
//! ```text
//! kernels    which of them compute
//! experts    feed-forward networks of which each token goes through a few
//! routing    the rule by which tokens choose them
//! heads      products of each head with a matrix of its own
//! take       weights, from as they are stored to as kernels read them
//! matrix     weights as they are stored, and a product with everything around it
//! delta      what is added to a product before what is behind it
//! attention  what one layer's attention is like
//! rope       rotary positions
//! query_scale  what queries are multiplied by where they are late
//! kv         memory for keys and values: how much, of what shape
//! block_table  which blocks of it a sequence has
//! state      memory for what else layers keep of a sequence
//! state_budget  how much of it there is
//! recurrent  the layers that keep it
//! step       a step's sequences, as layers see them
//! cpu        primitives of this project (`mlx_ext::cpu`), paged keys and values
//! mlx        MLX's operations, paged keys and values that are gathered for a step
//! ```
//!
//! **Batch invariance.** With the CPU's primitives a row's results depend, bit for bit, on its own sequence alone. MLX's
//! kernels depend on the shape of the whole batch.

mod attention;
mod block_table;
mod cpu;
mod delta;
mod experts;
mod heads;
mod kernels;
mod kv;
mod matrix;
mod mlx;
mod query_scale;
mod recurrent;
mod rope;
mod routing;
mod state;
mod state_budget;
mod step;
mod take;
#[cfg(test)]
mod tests;

use std::ops::Range;

use mlx_rs::{Array, Dtype, error::Exception};

pub(crate) use attention::{AttentionSpec, Heads};
pub(crate) use experts::{ExpertSizes, Mix, StoredExperts, StoredMatrices};
pub(crate) use heads::HeadProducts;
pub use kernels::Kernels;
pub use kv::{KvBudget, KvDtype, KvError};
pub(crate) use kv::{KvGeometry, RowMemory, StepBefore};
pub(crate) use matrix::{Gate, Linear, Matrix, Norm, NormKind, Origin, Rowwise, Storage};
pub(crate) use mlx::PackedInputs;
pub(crate) use query_scale::QueryScale;
pub(crate) use recurrent::{
    Activation, Columns, Convolution, ConvolutionForm, DeltaHeads, Gated, GatedDelta, StateGeometry,
};
pub(crate) use rope::Rope;
pub(crate) use routing::{Groups, Routing, RoutingRule, Scores};
pub(crate) use state::{SequenceState, StateMemory, StateRow, StateStep};
pub use state_budget::pinned_states;
pub(crate) use state_budget::{StateBudget, divide};
pub(crate) use step::{KvStep, StepMemory};

use crate::{cache::BLOCK_TOKENS, sample::Choice};

/// Computes layers. Copies are equal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backend {
    kernels: Kernels,
    dtype: Dtype,
}

/// Bytes of keys and values that are in use; any thread may ask for it.
pub type KvInUse = Box<dyn Fn() -> u64 + Send>;

/// A number that changes while kernels of this process work; any thread may ask for it.
pub type Progress = fn() -> u64;

/// The experts of a layer.
pub(crate) enum Experts {
    /// For kernels of this project.
    Cpu(cpu::CpuExperts),
    /// For MLX's operations: gate, up and down of all.
    Mlx(Box<[Matrix; 3]>),
}

/// Memory for the keys and values of all sequences.
pub(crate) enum KvMemory {
    /// Blocks that kernels find by a table.
    Paged(cpu::PagedKv),
    /// Blocks that are gathered for a step.
    Gathered(mlx::GatheredKv),
}

/// What one sequence has of it.
pub(crate) enum SequenceMemory {
    Paged(cpu::PagedSequence),
    Gathered(mlx::GatheredSequence),
}

impl Backend {
    /// The backend of a model most of whose weights (or their scales) are of type `float`.
    pub(crate) fn new(kernels: Kernels, float: Dtype) -> Self {
        let dtype = match kernels {
            Kernels::Cpu | Kernels::CpuInt8 | Kernels::MlxFloat32 => Dtype::Float32,
            Kernels::Mlx => float,
        };
        Self { kernels, dtype }
    }

    /// Type of activations.
    pub(crate) fn dtype(self) -> Dtype {
        self.dtype
    }

    /// Threads that compute, the calling one included: the kernels' own, or one a core.
    pub(crate) fn threads(self) -> usize {
        if self.kernels.are_cpu() {
            cpu::threads()
        } else {
            std::thread::available_parallelism().map_or(1, usize::from)
        }
    }

    /// Whether the first use of weights and operations takes so much longer that it should not be a request's.
    pub(crate) fn needs_warm_up(self) -> bool {
        self.kernels == Kernels::Mlx
    }

    /// Whether the device chooses tokens, and need not wait for the host between two steps.
    pub(crate) fn chooses(self) -> bool {
        !self.kernels.are_cpu()
    }

    /// One token for each row of float32 `[rows, vocab]`: uint32 `[rows]`; lazy.
    pub(crate) fn choose(self, logits: &Array, choices: &[Choice]) -> Result<Array, Exception> {
        mlx::choose(logits, choices)
    }

    /// `[tokens, outputs]` of a product and everything around it; lazy.
    pub(crate) fn linear(self, job: &Linear<'_>) -> Result<Array, Exception> {
        if let Some(norm) = job.norm.filter(|norm| self.kernels.are_cpu() && !norm.is_rms()) {
            let x = self.rowwise(&Rowwise { norms: &[(norm, 1)], ..Rowwise::of(job.x) })?;
            return self.linear(&Linear { x: &x, norm: None, ..*job });
        }
        match self.kernels {
            Kernels::Cpu => cpu::linear(job, false),
            Kernels::CpuInt8 => cpu::linear(job, true),
            Kernels::Mlx | Kernels::MlxFloat32 => mlx::linear(job),
        }
    }

    /// `[tokens, width]`: rows of a matrix for token ids, uint32 `[tokens]`; lazy.
    pub(crate) fn embedding(self, matrix: &Matrix, tokens: &Array, width: i32) -> Result<Array, Exception> {
        if self.kernels.are_cpu() {
            cpu::embedding(matrix, tokens, width)
        } else {
            mlx::embedding(matrix, tokens)
        }
    }

    /// `[tokens, width]` of normalizations that no product follows, and of what else is done with each row by itself; lazy.
    pub(crate) fn rowwise(self, job: &Rowwise<'_>) -> Result<Array, Exception> {
        if self.kernels.are_cpu() { cpu::rowwise(job) } else { mlx::rowwise(job) }
    }

    /// Inputs of so many tokens each, one behind the other, for [`PackedInputs::attend`].
    pub(crate) fn pack(self, lens: &[i32]) -> PackedInputs {
        // The CPU's rows must not depend on each other, whoever computes their attention.
        PackedInputs::new(lens, !self.kernels.are_cpu())
    }

    /// `[tokens, width]` of what is multiplied by a gate; lazy.
    pub(crate) fn gated(self, job: &Gated<'_>) -> Result<Array, Exception> {
        if self.kernels.are_cpu() { cpu::gated(job) } else { mlx::gated(job) }
    }

    /// Some columns of `x` `[tokens, width]`; lazy.
    pub(crate) fn columns(self, x: &Array, columns: &Columns) -> Result<Array, Exception> {
        if self.kernels.are_cpu() { cpu::columns(x, columns) } else { mlx::columns(x, columns) }
    }

    /// `[tokens, outputs]` of the experts that each token chooses; lazy.
    pub(crate) fn mix(self, job: &Mix<'_>, experts: &Experts) -> Result<Array, Exception> {
        match experts {
            Experts::Cpu(experts) => cpu::mix(job, experts, self.kernels == Kernels::CpuInt8),
            Experts::Mlx(experts) => mlx::mix(job, experts),
        }
    }

    /// `[tokens, heads * (copied + used rows)]`; lazy.
    pub(crate) fn head_products(self, job: &HeadProducts<'_>) -> Result<Array, Exception> {
        match self.kernels {
            Kernels::Cpu => cpu::head_products(job, false),
            Kernels::CpuInt8 => cpu::head_products(job, true),
            Kernels::Mlx | Kernels::MlxFloat32 => mlx::head_products(job),
        }
    }

    /// What of a layer's attention the kernels can't compute; `None`: they compute all of it.
    pub(crate) fn unsupported(self, spec: &AttentionSpec) -> Option<&'static str> {
        if self.pages(spec.heads) { cpu::unsupported(spec) } else { None }
    }

    /// What shows that a step of a model with such attention goes on. `None` if MLX computes a part of it that may take
    /// long: it does so in one piece.
    pub(crate) fn progress(self, attention: &[&AttentionSpec]) -> Option<Progress> {
        attention.iter().all(|spec| self.pages(spec.heads)).then_some(cpu::progress as Progress)
    }

    /// Makes memory for keys and values.
    ///
    /// # Errors
    /// The budget is too small, or there is no address space.
    pub(crate) fn kv_memory(self, geometry: KvGeometry, budget: KvBudget) -> Result<KvMemory, KvError> {
        Ok(if self.pages(geometry.heads) {
            KvMemory::Paged(cpu::PagedKv::new(geometry, budget)?)
        } else {
            // The CPU's rows must not depend on each other, whoever computes their attention.
            let together = !self.kernels.are_cpu();
            KvMemory::Gathered(mlx::GatheredKv::new(geometry, budget, self.dtype, together)?)
        })
    }

    /// Makes memory for states.
    ///
    /// # Errors
    /// There is no address space.
    pub(crate) fn state_memory(
        self,
        geometry: &StateGeometry,
        budget: StateBudget,
    ) -> Result<StateMemory, KvError> {
        StateMemory::new(geometry, budget, self.state_bytes(geometry), self.kernels.are_cpu())
    }

    /// Bytes of a state: those of float32, though of MLX's some may have a shorter type.
    pub(crate) fn state_bytes(self, geometry: &StateGeometry) -> u64 {
        geometry.values().saturating_mul(4)
    }

    /// Everything that keys and values of such a geometry depend on, besides the weights and the tokens.
    pub(crate) fn kv_identity(self, geometry: KvGeometry, budget: KvBudget) -> String {
        let KvGeometry { layers, heads: Heads { kv, dim, .. } } = geometry;
        let numbers = if self.pages(geometry.heads) {
            format!("{:?} by {}", budget.dtype, cpu::instructions())
        } else {
            format!("{:?} in blocks of {BLOCK_TOKENS}", self.dtype)
        };
        format!("{:?}: {layers} layers of {kv} heads of {dim}, {numbers}", self.kernels)
    }

    /// Bytes of a token's keys and values in all layers.
    pub(crate) fn kv_token_bytes(self, geometry: KvGeometry, budget: KvBudget) -> usize {
        let value_bytes = match budget.dtype {
            KvDtype::Float16 if self.pages(geometry.heads) => 2,
            KvDtype::Float16 | KvDtype::Float32 => kv::value_bytes(self.dtype),
        };
        (geometry.block_bytes(value_bytes) / BLOCK_TOKENS as u64) as usize
    }

    /// Whether attention is the CPU's. Its vectors have eight lanes; heads of other sizes get MLX's attention.
    fn pages(self, heads: Heads) -> bool {
        self.kernels.are_cpu() && heads.dim % 8 == 0
    }
}

impl KvMemory {
    /// Tokens for which there is memory, whichever of the budget's sequences hold them.
    pub(crate) fn tokens(&self) -> usize {
        match self {
            Self::Paged(memory) => memory.tokens(),
            Self::Gathered(memory) => memory.tokens(),
        }
    }

    /// Says how many blocks are in use. Any thread may ask.
    pub(crate) fn used_blocks(&self) -> Box<dyn Fn() -> usize + Send> {
        match self {
            Self::Paged(memory) => memory.used_blocks(),
            Self::Gathered(memory) => memory.used_blocks(),
        }
    }

    /// Forgets what the last `steps` steps have appended. Their sequences are truncated.
    pub(crate) fn abandon(&self, steps: usize) {
        if let Self::Gathered(memory) = self {
            memory.abandon(steps);
        }
    }

    /// A step was launched that reads blocks, until `last` has been computed.
    pub(crate) fn set_reader(&self, last: Array) {
        if let Self::Gathered(memory) = self {
            memory.set_reader(last);
        }
    }

    /// What a sequence without tokens has.
    pub(crate) fn sequence(&self) -> SequenceMemory {
        match self {
            Self::Paged(memory) => SequenceMemory::Paged(memory.sequence()),
            Self::Gathered(memory) => SequenceMemory::Gathered(memory.sequence()),
        }
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
        match self {
            Self::Paged(memory) => memory.begin(of_one_kind(rows, SequenceMemory::paged)?).map(KvStep::Paged),
            Self::Gathered(memory) => {
                memory.begin(of_one_kind(rows, SequenceMemory::gathered)?, before).map(KvStep::Gathered)
            }
        }
    }
}

/// The rows, if all of their sequences are of the same model as the memory.
fn of_one_kind<'a, M>(
    rows: Vec<RowMemory<'a, SequenceMemory>>,
    kind: fn(&'a mut SequenceMemory) -> Option<&'a mut M>,
) -> Result<Vec<RowMemory<'a, M>>, KvError> {
    let row = |RowMemory { position, new_tokens, memory }| {
        let memory =
            kind(memory).ok_or_else(|| Exception::custom("a step has a sequence of another model"))?;
        Ok(RowMemory { position, new_tokens, memory })
    };
    rows.into_iter().map(row).collect()
}

impl SequenceMemory {
    fn paged(&mut self) -> Option<&mut cpu::PagedSequence> {
        if let Self::Paged(sequence) = self { Some(sequence) } else { None }
    }

    fn gathered(&mut self) -> Option<&mut mlx::GatheredSequence> {
        if let Self::Gathered(sequence) = self { Some(sequence) } else { None }
    }

    /// Gives back what only tokens from `len` on need.
    pub(crate) fn truncate(&mut self, len: usize) {
        match self {
            Self::Paged(sequence) => sequence.truncate(len),
            Self::Gathered(sequence) => sequence.truncate(len),
        }
    }

    /// The memory of another sequence that begins with the first `len` tokens of this one. Nothing is copied until one of
    /// the two writes to what they share.
    pub(crate) fn fork(&self, len: usize) -> Self {
        match self {
            Self::Paged(sequence) => Self::Paged(sequence.fork(len)),
            Self::Gathered(sequence) => Self::Gathered(sequence.fork(len)),
        }
    }

    /// Keys and values of some tokens as bytes, which mean the same to every sequence of the same model and backend.
    ///
    /// # Errors
    /// The sequence does not have them, or they are not whole blocks where there are blocks.
    pub(crate) fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, KvError> {
        match self {
            Self::Paged(sequence) => sequence.export(tokens),
            Self::Gathered(sequence) => sequence.export(tokens),
        }
    }

    /// Appends the keys and values that [`export`](Self::export) gave of as many `tokens`.
    ///
    /// # Errors
    /// There is no memory for them, or they are others.
    pub(crate) fn import(&mut self, tokens: Range<usize>, bytes: &[u8]) -> Result<(), KvError> {
        match self {
            Self::Paged(sequence) => sequence.import(tokens, bytes),
            Self::Gathered(sequence) => sequence.import(tokens, bytes),
        }
    }

    /// What a step has appended is there to stay.
    pub(crate) fn commit(&mut self) {
        if let Self::Gathered(sequence) = self {
            sequence.commit();
        }
    }
}
