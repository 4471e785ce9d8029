//! Weights as they are stored, and what a backend computes with them in one go.

use std::sync::Arc;

use mlx_ext::MicroScaling;
use mlx_rs::{Array, Dtype, error::Exception};

/// What a normalization computes of each vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// `x / rms(x) * weight`.
    Rms,
    /// `x / rms(x) * (1 + weight)`.
    RmsPlusOne,
    /// `(x - mean(x)) / deviation(x) * weight + bias`.
    Layer,
}

/// A normalization's weights, in the type of activations.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    pub(super) kind: NormKind,
    /// `[width]`; the factor itself: 1 has been added where the kind says so.
    pub(super) weight: Array,
    /// Like the weight.
    pub(super) bias: Option<Array>,
    pub(super) eps: f32,
}

/// What the gate of a gated product goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// `x sigmoid(x)`.
    Silu,
    /// GELU in its approximation with a hyperbolic tangent.
    GeluTanh,
    /// `x sigmoid(1.702 x)` of a gate of at most 7, which meets `1 + up` of an up between -7 and 7.
    SwigluOai,
}

/// A matrix `[outputs, inputs]` as it is stored. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub(super) storage: Storage,
    /// `[outputs]`, of type `dtype`; of several matrices in one, `[matrices, outputs]`.
    pub(super) bias: Option<Array>,
    /// What it is of the model's, if that is known.
    pub(super) origin: Option<Origin>,
    /// Type of activations: one in the whole model. MLX would promote what is of two types, and convert the larger
    /// operand of each product in each step.
    pub(super) dtype: Dtype,
}

/// Which rows of which of a model's matrices a matrix is. Adapters name these.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// Name of the stored matrix, without `.weight`.
    pub(crate) module: Arc<str>,
    /// Which of its rows is the first.
    pub(crate) first: i32,
    /// Length of a row, in weights.
    pub(crate) inputs: i32,
}

/// How a matrix's values are stored.
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    /// float32, float16 or bfloat16 `[outputs, inputs]`.
    Dense(Array),
    /// `scale * q + bias`, with one scale and bias for each `group_size` inputs of an output.
    Affine {
        /// uint32 `[outputs, inputs * bits / 32]`.
        packed: Array,
        /// `[outputs, inputs / group_size]`.
        scales: Array,
        /// Like `scales`.
        biases: Array,
        group_size: i32,
        bits: i32,
    },
    /// Floats of 4 or 8 bits, with a scale of 8 bits for each group of inputs of an output.
    MicroScaled {
        /// uint32 `[outputs, inputs * bits / 32]`.
        packed: Array,
        /// uint8 `[outputs, inputs / group size]`.
        scales: Array,
        format: MicroScaling,
    },
}

/// `y = f(norm(x) Wᵀ + b) (+ residual)`: a product with what stands around it in a transformer block. A backend fuses of it
/// what it can.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear<'a> {
    /// `[tokens, inputs]`.
    pub(crate) x: &'a Array,
    /// Normalization of `x`.
    pub(crate) norm: Option<&'a Norm>,
    /// Of equal inputs; their outputs are concatenated in `y`.
    pub(crate) matrices: &'a [Matrix],
    /// Two matrices, gate and up: `y = activation(gate) * up`.
    pub(crate) gate: Option<Gate>,
    /// Added to the result, `[tokens, outputs]`.
    pub(crate) residual: Option<&'a Array>,
}

/// `y = residual + cap(factor * activation(norm(x)))`: what is done with each row by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rowwise<'a> {
    /// `[tokens, width]`.
    pub(crate) x: &'a Array,
    /// Normalizations of as many neighbouring pieces of a row as are said, from its beginning on. What follows them is
    /// taken as it is.
    pub(crate) norms: &'a [(&'a Norm, i32)],
    /// Whether the activation is GELU, `v Phi(v)` with the normal distribution's Phi. Otherwise there is none.
    pub(crate) gelu: bool,
    /// Of what the activation gives.
    pub(crate) factor: f32,
    /// `cap(v) = soft_cap * tanh(v / soft_cap)`.
    pub(crate) soft_cap: Option<f32>,
    /// `[tokens, width]`.
    pub(crate) residual: Option<&'a Array>,
}

impl Storage {
    /// Bytes of all of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.arrays().into_iter().map(|array| array.nbytes() as u64).sum()
    }

    /// The same of what `part` makes of each of its arrays.
    pub(crate) fn each(&self, part: impl Fn(&Array) -> Result<Array, Exception>) -> Result<Self, Exception> {
        Ok(match self {
            Self::Dense(weight) => Self::Dense(part(weight)?),
            Self::Affine { packed, scales, biases, group_size, bits } => Self::Affine {
                packed: part(packed)?,
                scales: part(scales)?,
                biases: part(biases)?,
                group_size: *group_size,
                bits: *bits,
            },
            Self::MicroScaled { packed, scales, format } => {
                Self::MicroScaled { packed: part(packed)?, scales: part(scales)?, format: *format }
            }
        })
    }

    /// Its arrays: of equally packed ones the same number.
    pub(crate) fn arrays(&self) -> Vec<&Array> {
        match self {
            Self::Dense(weight) => vec![weight],
            Self::Affine { packed, scales, biases, .. } => vec![packed, scales, biases],
            Self::MicroScaled { packed, scales, .. } => vec![packed, scales],
        }
    }
}

impl Matrix {
    /// The same, of which is known what it is of the model's.
    pub(crate) fn of(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    /// The same, in a place that no adapter names by the matrix's own name.
    pub(crate) fn anonymous(self) -> Self {
        Self { origin: None, ..self }
    }

    /// What it is of the model's.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// How many there are.
    pub(crate) fn outputs(&self) -> usize {
        let rows = self.storage.arrays().first().map_or(0, |array| array.dim(0));
        rows.unsigned_abs() as usize
    }
}

impl Norm {
    /// Whether a product can take it as the normalization of its input.
    pub(super) fn is_rms(&self) -> bool {
        self.kind != NormKind::Layer
    }
}

impl<'a> Rowwise<'a> {
    /// Nothing but `x`.
    pub(crate) fn of(x: &'a Array) -> Self {
        Self { x, norms: &[], gelu: false, factor: 1.0, soft_cap: None, residual: None }
    }
}
