//! Short convolutions and gates, with MLX's operations.

use mlx_rs::{
    Array,
    error::Exception,
    ops::{
        concatenate,
        indexing::{TryIndexOp, take_axis},
        sigmoid,
    },
};

use super::{
    super::{
        Convolution,
        recurrent::{Activation, Columns, ConvolutionForm, Gated},
    },
    gelu_tanh,
};

/// What a layer with a state gives for rows of equal length.
pub(super) struct Computed {
    /// `[rows, tokens, width]`.
    pub(super) y: Array,
    /// Behind each of the tokens that were asked for: `[rows, …]`.
    pub(super) states: Vec<Array>,
}

/// `y = residual + activation(gate) * x`.
pub(crate) fn gated(job: &Gated<'_>) -> Result<Array, Exception> {
    let gate = match job.activation {
        Activation::Silu => job.gate.multiply(sigmoid(job.gate)?)?,
        Activation::Sigmoid => sigmoid(job.gate)?,
        Activation::GeluTanh => gelu_tanh(job.gate)?,
    };
    let y = job.x.multiply(gate)?;
    job.residual.map_or(Ok(y.clone()), |residual| residual.add(&y))
}

/// Some columns of `x`.
pub(crate) fn columns(x: &Array, columns: &Columns) -> Result<Array, Exception> {
    match &columns.pieces[..] {
        [piece] => x.try_index((.., piece.clone())),
        _ => take_axis(x, &columns.indices, 1),
    }
}

/// `x` is `[rows, tokens, width]`, `before` `[rows, taps - 1, channels]`. States are behind `ends` tokens.
pub(super) fn convolved(
    job: &Convolution,
    x: &Array,
    before: &Array,
    ends: &[i32],
) -> Result<Computed, Exception> {
    let (taps, channels, tokens) = (job.weight.dim(0), job.weight.dim(1), x.dim(1));
    let part = |index: i32| x.try_index((.., .., index * channels..(index + 1) * channels));
    let (input, factor) = match job.form {
        ConvolutionForm::Silu => (x.clone(), None),
        ConvolutionForm::Gated => (part(0)?.multiply(part(2)?)?, Some(part(1)?)),
    };
    let all = concatenate(&[before, &input], 1)?;
    let mut y: Option<Array> = job.bias.clone();
    for tap in 0..taps {
        let product = all.try_index((.., tap..tap + tokens, ..))?.multiply(job.weight.try_index(tap)?)?;
        y = Some(y.map_or(Ok(product.clone()), |sum| sum.add(&product))?);
    }
    let y = y.ok_or_else(|| Exception::custom("a convolution has no taps"))?;
    let y = match factor {
        None => y.multiply(sigmoid(&y)?)?,
        Some(factor) => y.multiply(factor)?,
    };
    let state = |&end: &i32| all.try_index((.., end..end + taps - 1, ..));
    Ok(Computed { y, states: ends.iter().map(state).collect::<Result<_, _>>()? })
}
