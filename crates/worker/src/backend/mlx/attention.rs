//! Attention with MLX's operations, once the keys and values are in one place.

use std::ops::Range;

use mlx_rs::{
    Array, Dtype,
    error::Exception,
    fast::{ScaledDotProductAttentionMask, rope_dynamic, scaled_dot_product_attention},
    ops::{arange, broadcast_to, concatenate, indexing::TryIndexOp, select, softmax_axis, tanh, tile},
};

use super::{
    super::{
        Rope,
        attention::{AttentionSpec, Heads},
    },
    rowwise::number,
};

/// Queries alone: `[tokens, heads, 1, dim]`.
pub(super) fn queries_of(heads: Heads, x: &Array) -> Result<Array, Exception> {
    x.reshape(&[x.dim(0), heads.queries, 1, heads.dim])
}

/// Queries, keys and values, `[tokens, heads, 1, dim]` each.
pub(super) fn split(heads: Heads, qkv: &Array) -> Result<(Array, Array, Array), Exception> {
    let Heads { queries, kv, dim } = heads;
    let heads = qkv.reshape(&[qkv.dim(0), queries + 2 * kv, 1, dim])?;
    let part = |from: i32, to: i32| heads.try_index((.., from..to));
    Ok((part(0, queries)?, part(queries, queries + kv)?, part(queries + kv, queries + 2 * kv)?))
}

/// Rotates `[tokens, heads, 1, dim]`, each token by its own position (int32 `[tokens]`): MLX takes one position for each
/// first index, so each token is a batch of its own.
pub(super) fn rotate(rope: &Rope, x: &Array, positions: &Array) -> Result<Array, Exception> {
    let rotated = rope_dynamic(x, rope.dims(), rope.traditional(), None, 1.0, positions, rope.reciprocals())?;
    if rope.gain() == 1.0 {
        return Ok(rotated);
    }
    let gain = |component| if component < rope.dims() { rope.gain() } else { 1.0 };
    let gains: Vec<f32> = (0..x.dim(-1)).map(gain).collect();
    rotated.multiply(Array::from_slice(&gains, &[x.dim(-1)]).as_dtype(x.dtype())?)
}

/// Rows with equally many new tokens. `queries` `[rows * new, heads, 1, dim]`, `keys` and `values` `[1, rows * kv_heads,
/// seen, dim]`, `mask` as [`seen_by`] makes it. Returns `[rows * new, heads * dim]`.
///
/// The heads of all rows stand side by side as if they were one row's: so neither the mask has to be copied in every
/// layer, nor do keys and values of which a part is left out.
pub(super) fn attend_together(
    spec: &AttentionSpec,
    new: i32,
    queries: &Array,
    (keys, values): (&Array, &Array),
    mask: &Array,
) -> Result<Array, Exception> {
    let Heads { queries: heads, dim, .. } = spec.heads;
    let rows = queries.dim(0) / new;
    let queries = queries.reshape(&[rows, new, heads, dim])?.transpose_axes(&[0, 2, 1, 3])?.reshape(&[
        1,
        rows * heads,
        new,
        dim,
    ])?;
    attend(spec, &queries, (keys, values), Some(ScaledDotProductAttentionMask::Array(mask)))?
        .reshape(&[rows, heads, new, dim])?
        .transpose_axes(&[0, 2, 1, 3])?
        .reshape(&[rows * new, heads * dim])
}

/// Which of the keys at positions `first..last` each query sees, whose own positions are `positions` (`rows * new` of
/// them): boolean `[1, rows * heads, new, last - first]`.
pub(super) fn seen_by(
    spec: &AttentionSpec,
    new: i32,
    positions: &[i32],
    (first, last): (i32, i32),
) -> Result<Array, Exception> {
    let (rows, heads) = (positions.len() as i32 / new, spec.heads.queries);
    let queries = Array::from_slice(positions, &[rows, 1, new, 1]);
    let keys = arange::<_, i32>(first, last, None)?;
    let mut seen = keys.le(&queries)?;
    if spec.window.is_some() {
        let firsts: Vec<i32> = positions.iter().map(|&position| spec.first_seen(position)).collect();
        seen = seen.logical_and(keys.ge(Array::from_slice(&firsts, &[rows, 1, new, 1]))?)?;
    }
    let keys = last - first;
    broadcast_to(&seen, &[rows, heads, new, keys])?.reshape(&[1, rows * heads, new, keys])
}

/// One sequence: `queries` `[new, heads, 1, dim]`, `keys` and `values` `[1, kv_heads, all, dim]`, the new tokens being the
/// last of all. Returns `[new, heads * dim]`.
pub(super) fn attend_alone(
    spec: &AttentionSpec,
    queries: &Array,
    (keys, values): (&Array, &Array),
) -> Result<Array, Exception> {
    let queries = queries.swap_axes(0, 2)?;
    let (new, all) = (queries.dim(2), keys.dim(2));
    // Keys that any query sees, which are those since the first that the first one sees.
    let first = spec.first_seen(all - new);
    let seen = all - first;
    let (keys, values) =
        (keys.try_index((.., .., all - seen.., ..))?, values.try_index((.., .., all - seen.., ..))?);
    let windowed = match spec.window {
        Some(_) if spec.first_seen(all - 1) > first => Some(mask(spec, new, first..all)?),
        // A cap is computed with a mask as an array.
        _ if new > 1 && spec.soft_cap.is_some() => Some(mask(spec, new, first..all)?),
        _ => None,
    };
    let mask = match &windowed {
        Some(mask) => Some(ScaledDotProductAttentionMask::Array(mask)),
        None => (new > 1).then_some(ScaledDotProductAttentionMask::Causal),
    };
    attend(spec, &queries, (&keys, &values), mask)?
        .transpose_axes(&[0, 2, 1, 3])?
        .reshape(&[new, spec.heads.queries * spec.heads.dim])
}

/// `queries` and the result `[1, heads, new, dim]`, `keys` and `values` `[1, kv, seen, dim]`.
fn attend(
    spec: &AttentionSpec,
    queries: &Array,
    (keys, values): (&Array, &Array),
    mask: Option<ScaledDotProductAttentionMask<'_>>,
) -> Result<Array, Exception> {
    // There may be the heads of several rows.
    let sink = |sinks: &Array| {
        let rows = queries.dim(1) / spec.heads.queries;
        tile(sinks.as_dtype(queries.dtype())?, &[rows])
    };
    let sinks = spec.sinks.as_ref().map(sink).transpose()?;
    let Some(cap) = spec.soft_cap else {
        return scaled_dot_product_attention(queries, keys, values, spec.scale, mask, &sinks);
    };
    let mask = match mask {
        None => None,
        Some(ScaledDotProductAttentionMask::Array(mask)) => Some(mask),
        Some(_) => return Err(Exception::custom("capped scores need their mask as an array")),
    };
    attend_capped((spec.scale, cap), queries, (keys, values), mask, sinks.as_ref())
}

/// MLX's operation has no cap. Scores are float32; those of the heads that share keys are rows of one product.
fn attend_capped(
    (scale, cap): (f32, f32),
    queries: &Array,
    (keys, values): (&Array, &Array),
    mask: Option<&Array>,
    sinks: Option<&Array>,
) -> Result<Array, Exception> {
    let (heads, new, dim) = (queries.dim(1), queries.dim(2), queries.dim(3));
    let (kv, seen) = (keys.dim(1), keys.dim(2));
    let shared = [kv, heads / kv * new];
    let scaled = queries.multiply(number(scale, queries.dtype())?)?.reshape(&[shared[0], shared[1], dim])?;
    let keys = keys.reshape(&[kv, seen, dim])?.swap_axes(-1, -2)?;
    let cap = number(cap, Dtype::Float32)?;
    let scores = scaled.matmul(&keys)?.as_dtype(Dtype::Float32)?.divide(&cap)?;
    let mut scores = tanh(&scores)?.multiply(&cap)?;
    if let Some(mask) = mask {
        let mask = broadcast_to(mask, &[1, heads, new, seen])?.reshape(&[shared[0], shared[1], seen])?;
        scores = select(&mask, &scores, number(f32::NEG_INFINITY, Dtype::Float32)?)?;
    }
    if let Some(sinks) = sinks {
        let sinks = sinks.as_dtype(Dtype::Float32)?.reshape(&[heads, 1])?;
        let sinks = broadcast_to(&sinks, &[heads, new])?.reshape(&[shared[0], shared[1], 1])?;
        scores = concatenate(&[&scores, &sinks], -1)?;
    }
    let weights = softmax_axis(&scores, -1, true)?.as_dtype(queries.dtype())?.try_index((.., .., ..seen))?;
    weights.matmul(values.reshape(&[kv, seen, dim])?)?.reshape(&[1, heads, new, dim])
}

/// Which of the keys each of the last `new` queries sees: boolean `[new, keys]`.
fn mask(spec: &AttentionSpec, new: i32, keys: Range<i32>) -> Result<Array, Exception> {
    let positions = keys.end - new..keys.end;
    let firsts: Vec<i32> = positions.clone().map(|position| spec.first_seen(position)).collect();
    let queries = arange::<_, i32>(positions.start, positions.end, None)?.expand_dims(1)?;
    let keys = arange::<_, i32>(keys.start, keys.end, None)?.expand_dims(0)?;
    keys.le(&queries)?.logical_and(keys.ge(Array::from_slice(&firsts, &[new, 1]))?)
}

#[cfg(test)]
mod tests;
