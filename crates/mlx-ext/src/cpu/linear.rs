//! Products of activations with weight matrices.

use std::ffi::c_int;

use mlx_rs::{Array, error::Exception};

use super::{
    array_from, context,
    foreign::{RawLinear, RawMatrix, mlx_ext_embedding, mlx_ext_linear},
};

/// A weight matrix `[outputs, inputs]` as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// float32, float16 or bfloat16 `[outputs, inputs]`; with quantization uint32 `[outputs, inputs * bits / 32]`.
    pub weight: &'a Array,
    /// How it is packed, if it is.
    pub quantization: Option<Quantization<'a>>,
    /// float32 `[outputs]`, added to each product.
    pub bias: Option<&'a Array>,
}

/// MLX's affine packing: `value = scale * q + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Quantization<'a> {
    /// Float `[outputs, inputs / group_size]`.
    pub scales: &'a Array,
    /// Like `scales`.
    pub biases: &'a Array,
    /// Inputs that share a scale: 32, 64 or 128.
    pub group_size: i32,
    /// 4 or 8.
    pub bits: i32,
}

/// What the gate of a gated product goes through. The numbers are those of `kr::Gate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `x sigmoid(x)`.
    Silu = 1,
    /// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
    GeluTanh = 2,
}

/// `y = f(norm(x) Wᵀ + bias) (+ residual)`.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// float32 `[rows, inputs]`, contiguous.
    pub x: &'a Array,
    /// RMS normalization of each row first: float32 `[inputs]`, and epsilon.
    pub norm: Option<(&'a Array, f32)>,
    /// Matrices of equal inputs; their outputs are concatenated in the result.
    pub matrices: &'a [Matrix<'a>],
    /// Two matrices, gate and up, of equal outputs: the result is `activation(gate) * up`.
    pub gate: Option<Gate>,
    /// float32 like the result, contiguous.
    pub residual: Option<&'a Array>,
    /// Round activations to int8 instead of int16 where they meet weights of 4 bits: faster, less exact.
    pub int8: bool,
}

/// The product, lazy: float32 `[rows, width]`.
///
/// Activations that meet a quantized matrix are rounded to 16 bits in each of its groups; sums inside a group are
/// exact, and float32 over the groups in order. Error of a product of values near 1: about 1e-5.
///
/// # Errors
/// Shapes or types that do not fit; when it is evaluated, an input that is not contiguous.
pub fn linear(job: &Linear<'_>) -> Result<Array, Exception> {
    let matrices: Vec<RawMatrix> = job.matrices.iter().map(RawMatrix::new).collect();
    let spec = RawLinear {
        x: context(Some(job.x)),
        norm: context(job.norm.map(|(weight, _)| weight)),
        residual: context(job.residual),
        matrices: matrices.as_ptr(),
        matrix_count: matrices.len() as c_int,
        eps: job.norm.map_or(0.0, |(_, eps)| eps),
        gate: job.gate.map_or(0, |gate| gate as c_int),
        int8: job.int8.into(),
    };
    // SAFETY: every pointer in `spec` is null or borrowed from `job`, whose arrays outlive the call; C++ copies what it
    // keeps, and checks shapes and types itself.
    array_from(|message, len| unsafe { mlx_ext_linear(&raw const spec, message, len) })
}

/// Rows of `matrix` for `tokens`, lazy: float32 `[tokens, inputs]`.
///
/// `tokens` (uint32 `[count]`) must be below the matrix's outputs: that is not checked here.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn embedding(matrix: &Matrix<'_>, tokens: &Array, inputs: i32) -> Result<Array, Exception> {
    let raw = RawMatrix::new(matrix);
    // SAFETY: as in `linear`.
    array_from(|message, len| unsafe {
        mlx_ext_embedding(context(Some(tokens)), &raw const raw, inputs, message, len)
    })
}

impl RawMatrix {
    pub(super) fn new(matrix: &Matrix<'_>) -> Self {
        let packing = matrix.quantization.as_ref();
        Self {
            weight: context(Some(matrix.weight)),
            scales: context(packing.map(|packing| packing.scales)),
            biases: context(packing.map(|packing| packing.biases)),
            bias: context(matrix.bias),
            group: packing.map_or(0, |packing| packing.group_size),
            bits: packing.map_or(0, |packing| packing.bits),
        }
    }
}
