//! Layers with a state, with MLX's operations.
//!
//! The gated delta rule goes through a prompt token by token, some ten operations each. A form that takes many tokens at a
//! time with products of matrices would suit a GPU better; there is none yet.

use mlx_rs::{
    Array, Dtype,
    error::Exception,
    ops::{
        concatenate, exp,
        indexing::{TryIndexOp, take_axis},
        logaddexp, sigmoid,
    },
};

use super::{
    super::{
        Convolution, DeltaHeads, GatedDelta,
        recurrent::{Activation, Columns, ConvolutionForm, Gated},
    },
    gelu_tanh,
    rowwise::number,
};

/// What a layer gives for rows of equal length.
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

/// `qkv` and `gates` are `[rows, tokens, width]`, `before` `[rows, heads, key_dim, value_dim]`. States are behind `ends`
/// tokens.
pub(super) fn learned(
    job: &GatedDelta,
    qkv: &Array,
    gates: &Array,
    before: &Array,
    ends: &[i32],
) -> Result<Computed, Exception> {
    let DeltaHeads { keys, values, key_dim, value_dim } = job.heads;
    let (rows, tokens, dtype) = (qkv.dim(0), qkv.dim(1), qkv.dtype());
    let shared = values / keys;
    let wide = |array: &Array| array.as_dtype(Dtype::Float32);
    let part = |from: i32, width: i32| wide(&qkv.try_index((.., .., from..from + width))?);
    let key_width = job.heads.key_width();
    // `[rows, tokens, keys, 1, 1, key_dim]`, and `[…, shared, 1, value_dim]`: products of the last two axes.
    let key_shape = [rows, tokens, keys, 1, 1, key_dim];
    let query = part(0, key_width)?.reshape(&key_shape)?;
    let key = part(key_width, key_width)?.reshape(&key_shape)?;
    let value = part(2 * key_width, job.heads.value_width())?;
    let value = value.reshape(&[rows, tokens, keys, shared, 1, value_dim])?;
    let gate_shape = [rows, tokens, keys, shared, 1, 1];
    let beta = sigmoid(wide(&gates.try_index((.., .., ..values))?)?)?.reshape(&gate_shape)?;
    let time = wide(&gates.try_index((.., .., values..))?)?.add(&job.biases)?;
    let time = logaddexp(time, number(0.0, Dtype::Float32)?)?;
    let decay = exp(exp(&job.log_rates)?.multiply(time)?.negative()?)?.reshape(&gate_shape)?;
    let of_keys = [rows, keys, shared, key_dim, value_dim];
    let mut state = before.reshape(&of_keys)?;
    let (mut results, mut states) = (Vec::with_capacity(tokens as usize), Vec::with_capacity(ends.len()));
    for token in 0..tokens {
        let at = |array: &Array| array.try_index((.., token));
        let (query, key) = (at(&query)?, at(&key)?);
        let faded = state.multiply(at(&decay)?)?;
        let change = at(&value)?.subtract(key.matmul(&faded)?)?.multiply(at(&beta)?)?;
        state = faded.add(key.swap_axes(-1, -2)?.multiply(change)?)?;
        results.push(query.matmul(&state)?);
        if ends.contains(&(token + 1)) {
            states.push(state.reshape(&[rows, values, key_dim, value_dim])?);
        }
    }
    // `[rows, keys, shared, tokens, value_dim]`
    let all = concatenate(&results, 3)?;
    let y = all.transpose_axes(&[0, 3, 1, 2, 4])?.reshape(&[rows, tokens, values * value_dim])?;
    Ok(Computed { y: y.as_dtype(dtype)?, states })
}
