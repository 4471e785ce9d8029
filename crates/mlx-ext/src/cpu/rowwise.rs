//! What is done with each row of activations by itself.

use std::ffi::c_int;

use mlx_rs::{Array, error::Exception};

use super::{
    array_from, context,
    foreign::{RawNormedPart, RawRowwise, mlx_ext_rowwise},
};

/// How a piece of a row is normalized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / rms(x) * weight`.
    Rms,
    /// `(x - mean(x)) / deviation(x) * weight + bias`.
    Layer,
}

/// Neighbouring pieces of a row that are normalized alike, each by itself.
#[derive(Debug, Clone, Copy)]
pub struct NormedPart<'a> {
    /// How.
    pub kind: NormKind,
    /// float32 `[width]`: each piece has as many values.
    pub weight: &'a Array,
    /// Like the weight; of [`NormKind::Layer`] only.
    pub bias: Option<&'a Array>,
    /// Added to the mean of squares.
    pub eps: f32,
    /// How many pieces there are.
    pub count: i32,
}

/// `y = residual + cap(factor * activation(norm(x)))`.
#[derive(Debug, Clone, Copy)]
pub struct Rowwise<'a> {
    /// float32 `[rows, width]`, contiguous.
    pub x: &'a Array,
    /// From a row's beginning on; what follows these parts is taken as it is.
    pub parts: &'a [NormedPart<'a>],
    /// Whether the activation is GELU, `v Phi(v)` with the normal distribution's Phi. Otherwise there is none.
    pub gelu: bool,
    /// Of what the activation gives.
    pub factor: f32,
    /// `cap(v) = soft_cap * tanh(v / soft_cap)`; positive.
    pub soft_cap: Option<f32>,
    /// float32 like `x`, contiguous.
    pub residual: Option<&'a Array>,
}

/// The result, lazy: float32 like `x`.
///
/// # Errors
/// Shapes or types that do not fit; when it is evaluated, an input that is not contiguous.
pub fn rowwise(job: &Rowwise<'_>) -> Result<Array, Exception> {
    let part = |part: &NormedPart<'_>| RawNormedPart {
        weight: context(Some(part.weight)),
        bias: context(part.bias),
        eps: part.eps,
        layer: (part.kind == NormKind::Layer).into(),
        count: part.count,
    };
    let parts: Vec<RawNormedPart> = job.parts.iter().map(part).collect();
    let spec = RawRowwise {
        x: context(Some(job.x)),
        residual: context(job.residual),
        parts: parts.as_ptr(),
        part_count: parts.len() as c_int,
        gelu: job.gelu.into(),
        factor: job.factor,
        soft_cap: job.soft_cap.unwrap_or(0.0),
    };
    // SAFETY: every pointer in `spec` is null or borrowed from `job` or `parts`, which outlive the call; C++ copies what it
    // keeps, and checks shapes and types itself.
    array_from(|message, len| unsafe { mlx_ext_rowwise(&raw const spec, message, len) })
}
