//! Keys and values in arrays of each sequence, and attention on them, one sequence after the other.

use std::{cell::RefCell, ops::Range};

use mlx_rs::{
    Array, Dtype,
    error::{AsSliceError, Exception},
    fast::{ScaledDotProductAttentionMask, rope_dynamic, scaled_dot_product_attention},
    ops::{
        arange, concatenate,
        indexing::{TryIndexMutOp, TryIndexOp},
        zeros_dtype,
    },
    transforms::eval,
};

use super::super::{
    Rope,
    attention::{AttentionSpec, Heads},
    kv::{KvBudget, KvError, KvGeometry, RowMemory, value_bytes},
};

/// Room is added for this many tokens at a time.
const GROWTH: i32 = 256;

/// What sequences may take, together. Each allocates its own arrays.
pub(crate) struct ContiguousKv {
    layers: usize,
    heads: Heads,
    dtype: Dtype,
    tokens: usize,
}

/// A sequence's arrays.
pub(crate) struct ContiguousSequence {
    layers: Vec<Option<LayerKv>>,
    heads: Heads,
    dtype: Dtype,
    /// Arrays have been changed by a step that has not ended yet.
    appending: bool,
}

/// `[1, kv_heads, room, head_dim]` keys and values.
///
/// Appending writes in place: between steps nothing else refers to an array, so MLX takes its memory for the result. If
/// a fork refers to it, MLX copies it.
#[derive(Clone)]
struct LayerKv {
    keys: Array,
    values: Array,
}

/// The rows of a step.
pub(crate) struct ContiguousStep<'a> {
    /// Position of each token: int32 `[tokens]`.
    positions: Array,
    rows: RefCell<Vec<Row<'a>>>,
}

struct Row<'a> {
    position: i32,
    new_tokens: i32,
    sequence: &'a mut ContiguousSequence,
}

impl ContiguousKv {
    /// Keys and values have the type of activations, `dtype`.
    pub(crate) fn new(geometry: KvGeometry, budget: KvBudget, dtype: Dtype) -> Result<Self, KvError> {
        let tokens = geometry.blocks(budget, value_bytes(dtype))?.tokens;
        Ok(Self { layers: geometry.layers.unsigned_abs() as usize, heads: geometry.heads, dtype, tokens })
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(crate) fn sequence(&self) -> ContiguousSequence {
        let layers = vec![None; self.layers];
        ContiguousSequence { layers, heads: self.heads, dtype: self.dtype, appending: false }
    }
}

impl ContiguousSequence {
    pub(crate) fn is_intact(&self) -> bool {
        !self.appending
    }

    pub(crate) fn commit(&mut self) {
        self.appending = false;
    }

    /// A sequence with the first `len` tokens. The arrays are shared until one of the two appends to them: then what the
    /// other one has of them is not copied.
    pub(crate) fn fork(&self, len: usize) -> Self {
        let len = len as i32;
        let first = |all: &Array| match all.dim(2) > len {
            true => all.try_index((.., .., ..len, ..)).unwrap_or_else(|_| all.clone()),
            false => all.clone(),
        };
        let layer = |layer: &LayerKv| LayerKv { keys: first(&layer.keys), values: first(&layer.values) };
        let layers = self.layers.iter().map(|kv| kv.as_ref().map(layer)).collect();
        Self { layers, ..*self }
    }

    /// Keys and values of some tokens, layer by layer.
    pub(crate) fn export(&self, tokens: Range<usize>) -> Result<Vec<u8>, KvError> {
        let (start, end) = (tokens.start as i32, tokens.end as i32);
        let mut bytes = Vec::new();
        for array in self.arrays() {
            let part = array.try_index((.., .., start..end, ..))?.reshape(&[-1])?.view_dtype(Dtype::Uint8)?;
            bytes.extend_from_slice(part.try_as_slice::<u8>().map_err(|error| unreadable(&error))?);
        }
        Ok(bytes)
    }

    /// Appends the keys and values that [`export`](Self::export) gave of as many `tokens`.
    pub(crate) fn import(&mut self, tokens: Range<usize>, bytes: &[u8]) -> Result<(), KvError> {
        let shape = [1, self.heads.kv, tokens.len() as i32, self.heads.dim];
        // Keys, then values, of each layer.
        let parts = 2 * self.layers.len();
        let part_bytes =
            shape.iter().product::<i32>().unsigned_abs() as usize * value_bytes(self.dtype) as usize;
        if bytes.len() != parts * part_bytes || part_bytes == 0 {
            return Err(Exception::custom("these are not the keys and values of so many tokens").into());
        }
        let array = |bytes: &[u8]| {
            Array::from_slice(bytes, &[bytes.len() as i32]).view_dtype(self.dtype)?.reshape(&shape)
        };
        let arrays = bytes.chunks_exact(part_bytes).map(array).collect::<Result<Vec<_>, _>>()?;
        for (layer, pair) in arrays.chunks_exact(2).enumerate() {
            self.append(layer, tokens.start as i32, &pair[0], &pair[1])?;
        }
        eval(self.arrays())?;
        self.commit();
        Ok(())
    }

    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flatten().flat_map(|layer| [&layer.keys, &layer.values])
    }

    /// Puts new keys and values, `[1, kv_heads, new, head_dim]`, behind the first `start` tokens of a layer, and returns
    /// views of everything up to them.
    fn append(
        &mut self,
        layer: usize,
        start: i32,
        keys: &Array,
        values: &Array,
    ) -> Result<(Array, Array), Exception> {
        self.appending = true;
        let end = start + keys.dim(2);
        let place = &mut self.layers[layer];
        // Taken out, so that nothing but `all` refers to the arrays that are written to.
        let mut all = match place.take() {
            None => LayerKv { keys: room(keys, end)?, values: room(values, end)? },
            Some(old) if old.keys.dim(2) < end => {
                let missing = end - old.keys.dim(2);
                LayerKv {
                    keys: concatenate(&[&old.keys, &room(keys, missing)?], 2)?,
                    values: concatenate(&[&old.values, &room(values, missing)?], 2)?,
                }
            }
            Some(kept) => kept,
        };
        all.keys.try_index_mut((.., .., start..end, ..), keys)?;
        all.values.try_index_mut((.., .., start..end, ..), values)?;
        let all = place.insert(all);
        Ok((all.keys.try_index((.., .., ..end, ..))?, all.values.try_index((.., .., ..end, ..))?))
    }
}

fn unreadable(error: &AsSliceError) -> Exception {
    Exception::custom(error.to_string())
}

/// Zeros for at least `tokens` tokens of keys or values like `like`.
fn room(like: &Array, tokens: i32) -> Result<Array, Exception> {
    let tokens = tokens.unsigned_abs().next_multiple_of(GROWTH.unsigned_abs()) as i32;
    zeros_dtype(&[1, like.dim(1), tokens, like.dim(3)], like.dtype())
}

impl<'a> ContiguousStep<'a> {
    pub(crate) fn new(rows: Vec<RowMemory<'a, ContiguousSequence>>) -> Result<Self, KvError> {
        let positions: Vec<i32> =
            rows.iter().flat_map(|row| (row.position as i32..).take(row.new_tokens)).collect();
        let row = |RowMemory { position, new_tokens, memory }: RowMemory<'a, ContiguousSequence>| Row {
            position: position as i32,
            new_tokens: new_tokens as i32,
            sequence: memory,
        };
        let rows = rows.into_iter().map(row).collect();
        Ok(Self {
            positions: Array::from_slice(&positions, &[positions.len() as i32]),
            rows: RefCell::new(rows),
        })
    }

    pub(crate) fn attend(&self, spec: &AttentionSpec, layer: usize, qkv: &Array) -> Result<Array, Exception> {
        let (mut queries, mut keys, values) = split(spec.heads, qkv)?;
        if let Some(rope) = &spec.rope {
            queries = rotate(rope, &queries, &self.positions)?;
            keys = rotate(rope, &keys, &self.positions)?;
        }
        let mut attended = Vec::new();
        let mut first = 0;
        for Row { position, new_tokens, sequence } in self.rows.borrow_mut().iter_mut() {
            let end = first + *new_tokens;
            let own = |x: &Array| x.try_index(first..end)?.swap_axes(0, 1)?.expand_dims(0);
            let (keys, values) = sequence.append(layer, *position, &own(&keys)?, &own(&values)?)?;
            attended.push(attend_one(spec, &own(&queries)?, &keys, &values)?);
            first = end;
        }
        concatenate(&attended, 0)
    }
}

/// Queries, keys and values, `[tokens, heads, dim]` each.
fn split(heads: Heads, qkv: &Array) -> Result<(Array, Array, Array), Exception> {
    let Heads { queries, kv, dim } = heads;
    let heads = qkv.reshape(&[qkv.dim(0), queries + 2 * kv, dim])?;
    let part = |from: i32, to: i32| heads.try_index((.., from..to, ..));
    Ok((part(0, queries)?, part(queries, queries + kv)?, part(queries + kv, queries + 2 * kv)?))
}

/// Rotates `[tokens, heads, dim]`, each token by its own position (int32 `[tokens]`).
fn rotate(rope: &Rope, x: &Array, positions: &Array) -> Result<Array, Exception> {
    let shape = [x.dim(0), x.dim(1), x.dim(2)];
    // MLX takes one position for each first index: each token is a batch of its own.
    let apart = x.reshape(&[shape[0], shape[1], 1, shape[2]])?;
    rope_dynamic(&apart, rope.dims(), rope.traditional(), None, 1.0, positions, rope.reciprocals())?
        .reshape(&shape)
}

/// One sequence: `queries` `[1, heads, new, dim]`, `keys` and `values` `[1, kv_heads, all, dim]`, the new tokens being the
/// last of all. Returns `[new, heads * dim]`.
fn attend_one(
    spec: &AttentionSpec,
    queries: &Array,
    keys: &Array,
    values: &Array,
) -> Result<Array, Exception> {
    let (new, all) = (queries.dim(2), keys.dim(2));
    // Keys that any query sees: the first one sees `window` of them, and each other one more.
    let seen = spec.window.map_or(all, |window| all.min(window.saturating_add(new - 1)));
    let (keys, values) =
        (keys.try_index((.., .., all - seen.., ..))?, values.try_index((.., .., all - seen.., ..))?);
    let windowed = match spec.window {
        Some(window) if new > 1 && window < all => Some(window_mask(window, new, seen)?),
        _ => None,
    };
    let mask = match &windowed {
        Some(mask) => Some(ScaledDotProductAttentionMask::Array(mask)),
        None => (new > 1).then_some(ScaledDotProductAttentionMask::Causal),
    };
    scaled_dot_product_attention(queries, &keys, &values, spec.scale, mask, None)?
        .transpose_axes(&[0, 2, 1, 3])?
        .reshape(&[new, spec.heads.queries * spec.heads.dim])
}

/// Which of the last `seen` keys each of the last `new` queries sees: boolean `[new, seen]`.
fn window_mask(window: i32, new: i32, seen: i32) -> Result<Array, Exception> {
    let queries = arange::<_, i32>(seen - new, seen, None)?.expand_dims(1)?;
    let keys = arange::<_, i32>(0, seen, None)?.expand_dims(0)?;
    let distance = queries.subtract(&keys)?;
    distance.ge(Array::from_int(0))?.logical_and(distance.lt(Array::from_int(window))?)
}

#[cfg(test)]
mod tests;
