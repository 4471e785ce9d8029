//! Products of activations with weight matrices.

use std::ffi::c_int;

use mlx_rs::{Array, error::Exception};

use super::{
    array_from, context,
    foreign::{RawLinear, RawMatrix, mlx_ext_embedding, mlx_ext_gate_up, mlx_ext_linear},
};
use crate::MicroScaling;

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

/// A packing of MLX's that the primitives read as it is stored.
#[derive(Debug, Clone, Copy)]
pub enum Quantization<'a> {
    /// `value = scale * q + bias`.
    Affine {
        /// Float `[outputs, inputs / group_size]`.
        scales: &'a Array,
        /// Like `scales`.
        biases: &'a Array,
        /// Inputs that share a scale: 32, 64 or 128.
        group_size: i32,
        /// 2, 3, 4, 5, 6 or 8.
        bits: i32,
    },
    /// Floats of 4 bits (e2m1), in groups of 32 that share a power of two.
    Mxfp4 {
        /// uint8 `[outputs, inputs / 32]`: exponents (e8m0).
        scales: &'a Array,
    },
}

/// What the gate of a gated product goes through. The numbers are those of `kr::Gate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `x sigmoid(x)`.
    Silu = 1,
    /// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
    GeluTanh = 2,
    /// `x sigmoid(1.702 x)` of a gate of at most 7, which meets `1 + up` of an up between -7 and 7: as in gpt-oss.
    SwigluOai = 3,
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

/// `activation(gate) * up` of rows `[gate, up]`, float32 `[rows, 2 * width]`, lazy: float32 `[rows, width]`, with the same
/// bits as those of a gated [`linear`] of which `x` is the product.
///
/// # Errors
/// A shape or type that does not fit; when it is evaluated, an input that is not contiguous.
pub fn gate_up(x: &Array, gate: Gate) -> Result<Array, Exception> {
    // SAFETY: as in `linear`.
    array_from(|message, len| unsafe { mlx_ext_gate_up(context(Some(x)), gate as c_int, message, len) })
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
        let (scales, biases, group, bits) = match matrix.quantization {
            None => (None, None, 0, 0),
            Some(Quantization::Affine { scales, biases, group_size, bits }) => {
                (Some(scales), Some(biases), group_size, bits)
            }
            Some(Quantization::Mxfp4 { scales }) => {
                let format = MicroScaling::Mxfp4;
                (Some(scales), None, format.group_size(), format.bits())
            }
        };
        Self {
            weight: context(Some(matrix.weight)),
            scales: context(scales),
            biases: context(biases),
            bias: context(matrix.bias),
            group,
            bits,
        }
    }
}
