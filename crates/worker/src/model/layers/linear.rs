//! Products with weight matrices, dense or quantized, and what stands around them.

use mlx_rs::{Array, error::Exception};

use super::{ModelError, RmsNorm, Weights};
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
    let (weight, scales) = (format!("{name}.weight"), format!("{name}.scales"));
    let storage = if weights.contains(&scales) {
        let (group_size, bits) = packing(weights, &weight, &scales, inputs)?;
        let groups = [outputs, inputs / group_size];
        Storage::Affine {
            packed: weights.take_packed(&weight, &[outputs, inputs / 32 * bits])?,
            scales: weights.take_float(&scales, &groups)?,
            biases: weights.take_float(&format!("{name}.biases"), &groups)?,
            group_size,
            bits,
        }
    } else {
        Storage::Dense(weights.take_float(&weight, &[outputs, inputs])?)
    };
    let bias = if bias { Some(weights.take_float(&format!("{name}.bias"), &[outputs])?) } else { None };
    Ok(weights.backend().matrix(storage, bias)?)
}

/// Group size and bits of a quantized matrix, which its shapes tell: a configuration may give them
/// for each module or not at all.
fn packing(weights: &Weights<'_>, weight: &str, scales: &str, inputs: i32) -> Result<(i32, i32), ModelError> {
    let columns =
        |name: &str| Ok::<_, ModelError>((weights.shape(name)?, weights.shape(name)?.last().copied()));
    let inputs = inputs as u64;
    let (scales_shape, groups) = columns(scales)?;
    let group_size =
        groups.filter(|&groups| groups > 0 && inputs.is_multiple_of(groups)).map(|groups| inputs / groups);
    let Some(group_size @ (32 | 64 | 128)) = group_size else {
        return Err(ModelError::WrongShape {
            name: scales.to_owned(),
            found: scales_shape.to_vec(),
            expected: format!("one column for each 32, 64 or 128 of {inputs} inputs"),
        });
    };
    let (packed_shape, words) = columns(weight)?;
    let bits = words.filter(|words| (words * 32).is_multiple_of(inputs)).map(|words| words * 32 / inputs);
    let Some(bits @ (4 | 8)) = bits else {
        return Err(ModelError::WrongShape {
            name: weight.to_owned(),
            found: packed_shape.to_vec(),
            expected: format!("columns for {inputs} inputs of 4 or 8 bits"),
        });
    };
    Ok((group_size as i32, bits as i32))
}

#[cfg(test)]
mod tests;
