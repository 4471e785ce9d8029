//! The sequences of one step, as layers see them.

use mlx_rs::{Array, error::Exception};

use super::{AttentionSpec, Convolution, GatedDelta, StateStep, cpu, mlx};

/// The sequences of one step, for each layer in turn.
pub(crate) struct StepMemory<'a> {
    kv: KvStep<'a>,
    /// If layers keep states.
    states: Option<StateStep>,
}

/// Keys and values of the sequences of one step.
pub(crate) enum KvStep<'a> {
    Paged(cpu::PagedStep),
    Gathered(mlx::GatheredStep<'a>),
    /// Whole inputs, of which nothing is kept.
    Packed(&'a mlx::PackedInputs),
}

impl<'a> StepMemory<'a> {
    /// Of sequences that have keys and values, and states if layers keep some.
    pub(crate) fn new(kv: KvStep<'a>, states: Option<StateStep>) -> Self {
        Self { kv, states }
    }

    /// Whether it reads blocks that MLX would copy if they were written to meanwhile.
    pub(crate) fn reads_blocks(&self) -> bool {
        matches!(&self.kv, KvStep::Gathered(step) if step.reads_blocks())
    }

    /// Attention of one layer, the `layer`th of those that have some. `qkv` is `[tokens, (queries + 2 kv) * dim]`, the tokens
    /// of all rows concatenated. Rotates and appends the keys and values, and returns `[tokens, queries * dim]`; lazy.
    ///
    /// The rows' lengths stay as they are until the step has been evaluated.
    pub(crate) fn attend(&self, spec: &AttentionSpec, layer: usize, qkv: &Array) -> Result<Array, Exception> {
        self.kv.attend(spec, layer, qkv)
    }

    /// A convolution over `x`, the tokens of all rows concatenated: `[tokens, channels]`. Lazy; writes the rows' new states.
    pub(crate) fn convolve(&self, job: &Convolution, x: &Array) -> Result<Array, Exception> {
        self.states()?.convolve(job, x)
    }

    /// The gated delta rule over queries, keys, values and gates: `[tokens, values * value_dim]`; likewise.
    pub(crate) fn gated_delta(
        &self,
        job: &GatedDelta,
        qkv: &Array,
        gates: &Array,
    ) -> Result<Array, Exception> {
        self.states()?.gated_delta(job, qkv, gates)
    }

    /// What is to be evaluated with the step's results, when all layers have been asked.
    pub(crate) fn written(&self) -> Vec<Array> {
        self.states.as_ref().map_or_else(Vec::new, StateStep::written)
    }

    fn states(&self) -> Result<&StateStep, Exception> {
        self.states
            .as_ref()
            .ok_or_else(|| Exception::custom("a step has no states for a layer that keeps some"))
    }
}

impl KvStep<'_> {
    /// [`StepMemory::attend`].
    pub(super) fn attend(&self, spec: &AttentionSpec, layer: usize, qkv: &Array) -> Result<Array, Exception> {
        match self {
            Self::Paged(step) => step.attend(spec, layer, qkv),
            Self::Gathered(step) => step.attend(spec, layer, qkv),
            Self::Packed(inputs) => inputs.attend(spec, qkv),
        }
    }
}
