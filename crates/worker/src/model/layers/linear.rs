//! Products with weight matrices, dense or quantized, and what stands around them.

use mlx_rs::{Array, error::Exception, ops::indexing::TryIndexOp};

use super::{ModelError, Normalization, Packing, Site, Weights};
use crate::backend::{Backend, Gate, Linear, Matrix, Origin, Rowwise, Storage};

/// `y = f(norm(x) Wᵀ + b) (+ residual)`: the matrix products of a sublayer with what stands around them, as one step, so
/// that a backend can compute it as one.
pub(in crate::model) struct FusedLinear {
    norm: Option<Normalization>,
    /// Of equal inputs; their outputs are concatenated in `y`.
    matrices: Vec<Matrix>,
    /// Two matrices, gate and up: `y = activation(gate) * up`.
    gate: Option<Gate>,
    /// Where adapters change it, if they can.
    site: Option<Site>,
    backend: Backend,
}

/// The last product of a sublayer and the way back into the residual stream.
pub(super) struct OutputLinear {
    linear: FusedLinear,
    after: Option<Normalization>,
    /// Of what is added to the residual stream.
    factor: f32,
}

impl FusedLinear {
    /// The outputs of `matrices` concatenated, after an optional normalization.
    pub(in crate::model) fn new(
        norm: Option<Normalization>,
        matrices: Vec<Matrix>,
        weights: &Weights<'_>,
    ) -> Self {
        Self { norm, site: weights.site(&matrices), matrices, gate: None, backend: weights.backend() }
    }

    /// `activation(gate) * up` of the two matrices gate and up, after an optional normalization.
    pub(super) fn gated(
        norm: Option<Normalization>,
        matrices: Vec<Matrix>,
        activation: Gate,
        weights: &Weights<'_>,
    ) -> Self {
        Self { gate: Some(activation), ..Self::new(norm, matrices, weights) }
    }

    /// `x` `[tokens, inputs]`, `residual` and the result `[tokens, outputs]`; lazy.
    pub(in crate::model) fn forward(&self, x: &Array, residual: Option<&Array>) -> Result<Array, Exception> {
        let job = Linear {
            x,
            norm: self.norm.as_ref().map(|norm| &norm.norm),
            matrices: &self.matrices,
            gate: self.gate,
            residual,
        };
        let delta = self.site.as_ref().map(|site| site.delta(&job, self.backend)).transpose()?.flatten();
        match delta {
            Some(delta) => self.backend.linear_with(&job, &delta),
            None => self.backend.linear(&job),
        }
    }
}

impl OutputLinear {
    /// `after` is a normalization of the sublayer's result before it is multiplied by `factor` and added to the residual
    /// stream.
    pub(super) fn new(
        matrix: Matrix,
        after: Option<Normalization>,
        factor: f32,
        weights: &Weights<'_>,
    ) -> Self {
        Self { linear: FusedLinear::new(None, vec![matrix], weights), after, factor }
    }

    /// `x Wᵀ` alone; lazy.
    pub(super) fn product(&self, x: &Array) -> Result<Array, Exception> {
        self.linear.forward(x, None)
    }

    /// `residual + factor * after(x Wᵀ)`; lazy. With nothing in between, product and sum are one step.
    pub(super) fn forward(&self, x: &Array, residual: &Array) -> Result<Array, Exception> {
        if self.after.is_none() && self.factor == 1.0 {
            return self.linear.forward(x, Some(residual));
        }
        let product = self.linear.forward(x, None)?;
        let norms: Vec<_> = self.after.iter().map(|after| (&after.norm, 1)).collect();
        self.linear.backend.rowwise(&Rowwise {
            norms: &norms,
            factor: self.factor,
            residual: Some(residual),
            ..Rowwise::of(&product)
        })
    }
}

/// Takes `<name>.weight` (with `.scales` and `.biases` where it is quantized) and, if `bias`, `<name>.bias`.
pub(in crate::model) fn load_matrix(
    weights: &mut Weights<'_>,
    name: &str,
    [outputs, inputs]: [i32; 2],
    bias: bool,
) -> Result<Matrix, ModelError> {
    let storage = load_storage(weights, name, &[outputs, inputs])?;
    let bias = load_bias(weights, name, outputs, bias)?;
    let origin = Origin { module: name.into(), first: 0, inputs };
    Ok(weights.backend().matrix(storage, bias)?.of(origin))
}

/// The same of several matrices that are stored as one, with their numbers of outputs in order.
pub(in crate::model) fn load_matrices(
    weights: &mut Weights<'_>,
    name: &str,
    (outputs, inputs): (&[i32], i32),
    bias: bool,
) -> Result<Vec<Matrix>, ModelError> {
    let all = outputs.iter().sum();
    let storage = load_storage(weights, name, &[all, inputs])?;
    let bias = load_bias(weights, name, all, bias)?;
    let mut matrices = Vec::with_capacity(outputs.len());
    let mut first = 0;
    for rows in outputs {
        let part = first..first + rows;
        let bias = bias.as_ref().map(|bias| bias.try_index(part.clone())).transpose()?;
        let rows_of = storage.each(|array| array.try_index(part.clone()))?;
        let origin = Origin { module: name.into(), first, inputs };
        matrices.push(weights.backend().matrix(rows_of, bias)?.of(origin));
        first += rows;
    }
    Ok(matrices)
}

fn load_bias(
    weights: &mut Weights<'_>,
    name: &str,
    outputs: i32,
    bias: bool,
) -> Result<Option<Array>, ModelError> {
    bias.then(|| weights.take_float(&format!("{name}.bias"), &[outputs])).transpose()
}

/// `shape` ends with outputs and inputs; before them there may be a number of matrices that are stored as one.
pub(super) fn load_storage(
    weights: &mut Weights<'_>,
    name: &str,
    shape: &[i32],
) -> Result<Storage, ModelError> {
    let (weight, scales) = (format!("{name}.weight"), format!("{name}.scales"));
    let (inputs, before) = match shape {
        [before @ .., inputs] => (*inputs, before),
        [] => (0, shape),
    };
    let with = |columns: i32| [before, &[columns]].concat();
    let Some(packing) = weights.packing(name, inputs)? else {
        return Ok(Storage::Dense(weights.take_float(&weight, shape)?));
    };
    let packed = weights.take_packed(&weight, &with(inputs / 32 * packing.bits()))?;
    let groups = with(inputs / packing.group_size());
    let storage = match packing {
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
    };
    let backend = weights.backend();
    weights.changed(storage, |storage| backend.readable(storage))
}

#[cfg(test)]
mod tests;
