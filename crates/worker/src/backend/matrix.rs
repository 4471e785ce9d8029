//! Weights as they are stored, and what a backend computes with them in one go.

use mlx_ext::MicroScaling;
use mlx_rs::{Array, Dtype};

/// The weight of an RMS normalization, in the type of activations.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    pub(super) weight: Array,
    pub(super) eps: f32,
}

/// A matrix `[outputs, inputs]` as it is stored. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub(super) storage: Storage,
    /// `[outputs]`, of type `dtype`.
    pub(super) bias: Option<Array>,
    /// Type of activations: one in the whole model. MLX would promote what is of two types, and convert the larger
    /// operand of each product in each step.
    pub(super) dtype: Dtype,
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

impl Matrix {
    /// Bytes of the values, without the bias.
    pub(crate) fn bytes(&self) -> u64 {
        self.storage.bytes()
    }
}

impl Storage {
    /// Bytes of all of it.
    pub(crate) fn bytes(&self) -> u64 {
        let all = |arrays: &[&Array]| arrays.iter().map(|array| array.nbytes() as u64).sum();
        match self {
            Self::Dense(weight) => all(&[weight]),
            Self::Affine { packed, scales, biases, .. } => all(&[packed, scales, biases]),
            Self::MicroScaled { packed, scales, .. } => all(&[packed, scales]),
        }
    }
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
    /// Two matrices, gate and up: `y = silu(gate) * up`.
    pub(crate) gated: bool,
    /// Added to the result, `[tokens, outputs]`.
    pub(crate) residual: Option<&'a Array>,
}
