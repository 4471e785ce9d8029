//! The sequences of one step, as layers see them.

use std::rc::Rc;

use mlx_rs::{Array, error::Exception};

use super::{AttentionSpec, Convolution, GatedDelta, StateStep, cpu, geometry::LayerPlace, mlx};

/// The sequences of one step, for each layer in turn.
pub(crate) struct StepMemory<'a> {
    kv: KvStep<'a>,
    /// If layers keep states.
    states: Option<StateStep>,
}

/// Keys and values of the sequences of one step.
pub(crate) enum KvStep<'a> {
    /// Those that sequences keep.
    Kept {
        kinds: Vec<KindStep<'a>>,
        /// Of each layer.
        places: Rc<[LayerPlace]>,
    },
    /// Of whole inputs, of which nothing is kept.
    Packed(&'a mlx::PackedInputs),
}

/// What sequences keep in the layers of one kind.
pub(crate) enum KindStep<'a> {
    Paged(cpu::PagedStep),
    Gathered(mlx::GatheredStep<'a>),
}

impl<'a> StepMemory<'a> {
    /// Of sequences that have keys and values, and states if layers keep some.
    pub(crate) fn new(kv: KvStep<'a>, states: Option<StateStep>) -> Self {
        Self { kv, states }
    }

    /// Whether it reads blocks that MLX would copy if they were written to meanwhile.
    pub(crate) fn reads_blocks(&self) -> bool {
        self.kv.reads_blocks()
    }

    /// Attention of one layer, the `layer`th of those that have keys and values of their own, or on what that one has appended.
    /// `qkv` is `[tokens, (queries + 2 kv) * dim]`, the tokens of all rows concatenated; queries alone of a layer that borrows.
    /// Rotates and appends the keys and values, and returns `[tokens, queries * dim]`; lazy.
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
    fn reads_blocks(&self) -> bool {
        matches!(self, Self::Kept { kinds, .. } if kinds.iter().any(KindStep::reads_blocks))
    }

    /// [`StepMemory::attend`].
    pub(super) fn attend(&self, spec: &AttentionSpec, layer: usize, qkv: &Array) -> Result<Array, Exception> {
        let (kinds, places) = match self {
            Self::Kept { kinds, places } => (kinds, places),
            Self::Packed(inputs) => return inputs.attend(spec, qkv),
        };
        let none = || Exception::custom(format!("there is no memory for a layer {layer} with attention"));
        let &LayerPlace { kind, layer } = places.get(layer).ok_or_else(none)?;
        match &kinds[kind] {
            KindStep::Paged(step) => step.attend(spec, layer, qkv),
            KindStep::Gathered(step) => step.attend(spec, layer, qkv),
        }
    }
}

impl KindStep<'_> {
    fn reads_blocks(&self) -> bool {
        matches!(self, Self::Gathered(step) if step.reads_blocks())
    }
}
