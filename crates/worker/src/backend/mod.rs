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
//! geometry   of what shape keys and values are
//! kv         how much memory there is for them
//! kv_division  how it is divided between layers with a window and others
//! kv_memory  the memory
//! kv_sequence  what a sequence has of it
//! kind_blocks  the blocks of layers that are alike
//! block_table  which of them a sequence has
//! window_table  the same of layers that keep what their window reaches
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
mod geometry;
mod heads;
mod kernels;
mod kind_blocks;
mod kv;
mod kv_division;
mod kv_memory;
mod kv_sequence;
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
mod window_table;

use mlx_rs::{Array, Dtype, error::Exception, transforms::eval};

pub(crate) use attention::{AttentionSpec, Heads, KvSource};
pub(crate) use experts::{ExpertSizes, Mix, StoredExperts, StoredMatrices};
pub(crate) use geometry::{KvGeometry, KvHeads};
pub(crate) use heads::HeadProducts;
pub use kernels::Kernels;
pub use kv::{KvBudget, KvDtype, KvError, KvWindows};
pub(crate) use kv::{RowMemory, StepBefore};
pub(crate) use kv_memory::KvMemory;
pub(crate) use kv_sequence::SequenceMemory;
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
use geometry::LayerKind;
use kv_memory::KvStorage;

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

    /// Computes lazy results of one step, and waits for them.
    pub(crate) fn evaluate(self, results: &[&Array]) -> Result<(), Exception> {
        if self.kernels.are_cpu() { cpu::evaluate(results) } else { eval(results.iter().copied()) }
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
        if self.pages(spec.heads.dim) { cpu::unsupported(spec) } else { None }
    }

    /// What shows that a step of a model with such attention goes on. `None` if MLX computes a part of it that may take
    /// long: it does so in one piece.
    pub(crate) fn progress(self, attention: &[&AttentionSpec]) -> Option<Progress> {
        attention.iter().all(|spec| self.pages(spec.heads.dim)).then_some(cpu::progress as Progress)
    }

    /// Makes memory for keys and values of sequences of at most `context` tokens.
    ///
    /// # Errors
    /// The budget is too small, or there is no address space.
    pub(crate) fn kv_memory(
        self,
        geometry: &KvGeometry,
        budget: KvBudget,
        context: usize,
    ) -> Result<KvMemory, KvError> {
        KvMemory::new(geometry, budget, context, |kind| self.kv_storage(kind, budget))
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
    pub(crate) fn kv_identity(self, geometry: &KvGeometry, budget: KvBudget) -> String {
        let kind = |&kind: &LayerKind| {
            let LayerKind { layers, heads: KvHeads { kv, dim }, .. } = kind;
            let numbers = match self.kv_storage(kind, budget) {
                KvStorage::Paged(dtype) => format!("{dtype:?} by {}", cpu::instructions()),
                KvStorage::Gathered { dtype, .. } => format!("{dtype:?} in blocks of {BLOCK_TOKENS}"),
            };
            format!("{layers} layers of {kv} heads of {dim}, {numbers}")
        };
        let kinds: Vec<String> = geometry.kinds().iter().map(kind).collect();
        format!("{:?}: {}", self.kernels, kinds.join("; "))
    }

    /// Bytes of a token's keys and values in all layers.
    pub(crate) fn kv_token_bytes(self, geometry: &KvGeometry, budget: KvBudget) -> usize {
        let bytes = |&kind: &LayerKind| kind.block_bytes(self.kv_storage(kind, budget).value_bytes());
        let block_bytes = geometry.kinds().iter().map(bytes).fold(0, u64::saturating_add);
        (block_bytes / BLOCK_TOKENS as u64) as usize
    }

    fn kv_storage(self, kind: LayerKind, budget: KvBudget) -> KvStorage {
        if self.pages(kind.heads.dim) {
            return KvStorage::Paged(budget.dtype);
        }
        // The CPU's rows must not depend on each other, whoever computes their attention.
        KvStorage::Gathered { dtype: self.dtype, together: !self.kernels.are_cpu() }
    }

    /// Whether attention is the CPU's. Its vectors have eight lanes; heads of other sizes get MLX's attention.
    fn pages(self, head_dim: i32) -> bool {
        self.kernels.are_cpu() && head_dim % 8 == 0
    }
}
