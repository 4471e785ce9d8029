//! Products with weight matrices, dense or quantized, and what stands around them.

use mlx_rs::{Array, error::Exception};

use super::{ModelError, Packing, RmsNorm, Weights};
use crate::backend::{Backend, Linear, Matrix, Storage};

/// `y = f(norm(x) Wᵀ + b) (+ residual)`: the matrix products of a sublayer with what stands around them, as one step, so
/// that a backend can compute it as one.
pub(in crate::model) struct FusedLinear {
    norm: Option<RmsNorm>,
    /// Of equal inputs; their outputs are concatenated in `y`.
    matrices: Vec<Matrix>,
    /// Two matrices, gate and up: `y = silu(gate) * up`.
    gated: bool,
    backend: Backend,
}

/// The last product of a sublayer and the way back into the residual stream.
pub(super) struct OutputLinear {
    linear: FusedLinear,
    after: Option<RmsNorm>,
}

impl FusedLinear {
    /// The outputs of `matrices` concatenated, after an optional normalization.
    pub(in crate::model) fn new(norm: Option<RmsNorm>, matrices: Vec<Matrix>, weights: &Weights<'_>) -> Self {
        Self { norm, matrices, gated: false, backend: weights.backend() }
    }

    /// `silu(gate) * up`, after an optional normalization.
    pub(super) fn gated(norm: Option<RmsNorm>, gate: Matrix, up: Matrix, weights: &Weights<'_>) -> Self {
        Self { norm, matrices: vec![gate, up], gated: true, backend: weights.backend() }
    }

    /// `x` `[tokens, inputs]`, `residual` and the result `[tokens, outputs]`; lazy.
    pub(in crate::model) fn forward(&self, x: &Array, residual: Option<&Array>) -> Result<Array, Exception> {
        self.backend.linear(&Linear {
            x,
            norm: self.norm.as_ref().map(|norm| &norm.norm),
            matrices: &self.matrices,
            gated: self.gated,
            residual,
        })
    }
}

impl OutputLinear {
    /// `after` is a normalization of the sublayer's result before it is added to the residual stream.
    pub(super) fn new(matrix: Matrix, after: Option<RmsNorm>, weights: &Weights<'_>) -> Self {
        Self { linear: FusedLinear::new(None, vec![matrix], weights), after }
    }

    /// `residual + after(x Wᵀ)`; lazy. Without a normalization in between, product and sum are one step.
    pub(super) fn forward(&self, x: &Array, residual: &Array) -> Result<Array, Exception> {
        match &self.after {
            None => self.linear.forward(x, Some(residual)),
            Some(norm) => residual.add(norm.forward(&self.linear.forward(x, None)?)?),
        }
    }
}

/// Takes `<name>.weight` (with `.scales` and `.biases` where it is quantized) and, if `bias`, `<name>.bias`.
pub(in crate::model) fn load_matrix(
    weights: &mut Weights<'_>,
    name: &str,
    [outputs, inputs]: [i32; 2],
    bias: bool,
) -> Result<Matrix, ModelError> {
    let storage = load_storage(weights, name, [outputs, inputs])?;
    let bias = if bias { Some(weights.take_float(&format!("{name}.bias"), &[outputs])?) } else { None };
    let stored = storage.bytes();
    let matrix = weights.backend().matrix(storage, bias)?;
    weights.count_growth(matrix.bytes().saturating_sub(stored));
    Ok(matrix)
}

fn load_storage(
    weights: &mut Weights<'_>,
    name: &str,
    [outputs, inputs]: [i32; 2],
) -> Result<Storage, ModelError> {
    let (weight, scales) = (format!("{name}.weight"), format!("{name}.scales"));
    let Some(packing) = weights.packing(name, inputs)? else {
        return Ok(Storage::Dense(weights.take_float(&weight, &[outputs, inputs])?));
    };
    let packed = weights.take_packed(&weight, &[outputs, inputs / 32 * packing.bits()])?;
    let groups = [outputs, inputs / packing.group_size()];
    Ok(match packing {
        Packing::Affine { group_size, bits } => Storage::Affine {
            packed,
            scales: weights.take_float(&scales, &groups)?,
            biases: weights.take_float(&format!("{name}.biases"), &groups)?,
            group_size,
            bits,
        },
        Packing::MicroScaled(format) => {
            Storage::MicroScaled { packed, scales: weights.take_bytes(&scales, &groups)?, format }
        }
    })
}

#[cfg(test)]
mod tests;
