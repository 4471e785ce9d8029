//! The gated delta rule, with MLX's operations: one token of several rows, or chunks of one row.
//!
//! A chunk is computed with products of matrices (Yang, Kautz, Hatamizadeh, "Gated Delta Networks", 2024, section 3.3). With the
//! state `S` before it, queries `Q`, keys `K`, values `V`, and of each token the learning rate `b` and the product `g` of the
//! decays from the chunk's first token to it:
//!
//! ```text
//! A[i, j] = b[i] * g[i] / g[j] * (K[i] . K[j])   for j < i
//! U = (1 + A)^-1 (b V - b g K S)                 what each token changes
//! Y[i] = g[i] Q[i] S + sum of g[i] / g[j] * (Q[i] . K[j]) U[j]   for j <= i
//! S' = g[last] S + sum of g[last] / g[j] * K[j]^T U[j]
//! ```
//!
//! All that does not depend on the state is computed for all chunks at once.

use mlx_rs::{
    Array, Dtype,
    error::Exception,
    ops::{
        concatenate, exp, eye,
        indexing::{TryIndexOp, take_axis},
        logaddexp, select, sigmoid, zeros_dtype,
    },
};

use super::{
    super::{DeltaHeads, GatedDelta},
    recurrent::Computed,
    rowwise::number,
};

/// Tokens of a chunk, at most: a power of two. A token costs as many products within its chunk as with the state when it is
/// about half as long as keys are.
const CHUNK: i32 = 64;

/// Of all tokens: queries and keys `[…, keys, 1, key_dim]`, values `[…, keys, shared, value_dim]`, gates
/// `[…, keys, shared]`, all of float32.
struct Inputs {
    query: Array,
    key: Array,
    value: Array,
    /// How much each token learns.
    beta: Array,
    /// Logarithms of what is left of the state.
    log_decay: Array,
}

/// What does not depend on the state, of each chunk: `[chunks, keys, shared, …]`.
struct Chunks {
    /// What tokens change, without the state: `[.., tokens, value_dim]`.
    learned: Array,
    /// What of the state is taken from that: `[.., tokens, key_dim]`.
    known: Array,
    /// Queries as they meet the state: `[.., tokens, key_dim]`.
    asked: Array,
    /// Queries with keys of their own chunk: `[.., tokens, tokens]`.
    scores: Array,
    /// Keys as their changes are left at the end: `[.., key_dim, tokens]`.
    kept: Array,
    /// What is left of the state at the end: `[.., 1, 1]`.
    left: Array,
}

/// `qkv` and `gates` are `[rows, tokens, width]`, `before` `[rows, heads, key_dim, value_dim]`; several rows have one token
/// each. States are behind `ends` tokens, in order, the last of which is all.
pub(super) fn learned(
    job: &GatedDelta,
    qkv: &Array,
    gates: &Array,
    before: &Array,
    ends: &[i32],
) -> Result<Computed, Exception> {
    if qkv.dim(1) == 1 {
        one_token(job, qkv, gates, before)
    } else {
        in_chunks(job, qkv, gates, before, ends)
    }
}

fn one_token(job: &GatedDelta, qkv: &Array, gates: &Array, before: &Array) -> Result<Computed, Exception> {
    let DeltaHeads { keys, values, key_dim, value_dim } = job.heads;
    let (rows, dtype) = (qkv.dim(0), qkv.dtype());
    let Inputs { query, key, value, beta, log_decay } = Inputs::new(job, qkv, gates, &[rows])?;
    let shared = values / keys;
    let state = before.reshape(&[rows, keys, shared, key_dim, value_dim])?;
    // A head's numbers become matrices: `[rows, keys, shared, …, …]`.
    let row = |array: &Array| array.expand_dims(-2);
    let number = |array: &Array| array.expand_dims_axes(&[-1, -2]);
    let faded = state.multiply(number(&exp(&log_decay)?)?)?;
    let change = row(&value)?.subtract(row(&key)?.matmul(&faded)?)?.multiply(number(&beta)?)?;
    let state = faded.add(key.expand_dims(-1)?.multiply(change)?)?;
    let y = row(&query)?.matmul(&state)?.reshape(&[rows, 1, values * value_dim])?;
    let state = state.reshape(&[rows, values, key_dim, value_dim])?;
    Ok(Computed { y: y.as_dtype(dtype)?, states: vec![state] })
}

fn in_chunks(
    job: &GatedDelta,
    qkv: &Array,
    gates: &Array,
    before: &Array,
    ends: &[i32],
) -> Result<Computed, Exception> {
    let DeltaHeads { keys, values, key_dim, value_dim } = job.heads;
    let (tokens, dtype) = (qkv.dim(1), qkv.dtype());
    let cut = Cut::new(tokens, ends);
    let inputs = Inputs::new(job, qkv, gates, &[tokens])?.cut(&cut)?;
    let chunks = Chunks::new(&inputs, cut.size)?;
    let mut state = before.reshape(&[keys, values / keys, key_dim, value_dim])?;
    let (mut results, mut states) = (Vec::with_capacity(cut.ends.len()), Vec::with_capacity(ends.len()));
    for (chunk, end) in cut.ends.iter().enumerate() {
        let at = |array: &Array| array.try_index(chunk as i32);
        let change = at(&chunks.learned)?.subtract(at(&chunks.known)?.matmul(&state)?)?;
        results.push(at(&chunks.asked)?.matmul(&state)?.add(at(&chunks.scores)?.matmul(&change)?)?);
        state = at(&chunks.left)?.multiply(&state)?.add(at(&chunks.kept)?.matmul(&change)?)?;
        if ends.contains(end) {
            states.push(state.reshape(&[1, values, key_dim, value_dim])?);
        }
    }
    // `[keys, shared, places, value_dim]`
    let all = concatenate(&results, 2)?.transpose_axes(&[2, 0, 1, 3])?.reshape(&[-1, values * value_dim])?;
    let y = take_axis(&all, &cut.places, 0)?.reshape(&[1, tokens, values * value_dim])?;
    Ok(Computed { y: y.as_dtype(dtype)?, states })
}

/// How a row's tokens are cut into chunks of one size, of which some are not full.
struct Cut {
    size: i32,
    /// Behind how many tokens each chunk ends.
    ends: Vec<i32>,
    /// uint32: which token each place of the chunks has; that behind the last where it has none.
    tokens: Array,
    /// uint32: at which place each token is.
    places: Array,
}

impl Cut {
    /// A chunk ends wherever a state is wanted.
    fn new(tokens: i32, wanted: &[i32]) -> Self {
        let begins = [0].into_iter().chain(wanted.iter().copied());
        let parts: Vec<(i32, i32)> = begins.zip(wanted.iter().copied()).collect();
        let longest = parts.iter().map(|(begin, end)| end - begin).max().unwrap_or(1);
        let size = (longest.unsigned_abs().next_power_of_two() as i32).min(CHUNK);
        let of_part = |&(begin, end): &(i32, i32)| {
            (begin..end).step_by(size as usize).map(move |first| first..end.min(first + size))
        };
        let chunks: Vec<_> = parts.iter().flat_map(of_part).collect();
        let mut all = vec![tokens as u32; chunks.len() * size as usize];
        let mut places = vec![0_u32; tokens as usize];
        for (index, chunk) in chunks.iter().enumerate() {
            for (place, token) in (index * size as usize..).zip(chunk.clone()) {
                all[place] = token as u32;
                places[token as usize] = place as u32;
            }
        }
        Self {
            size,
            ends: chunks.iter().map(|chunk| chunk.end).collect(),
            tokens: Array::from_slice(&all, &[chunks.len() as i32, size]),
            places: Array::from_slice(&places, &[tokens]),
        }
    }
}

impl Inputs {
    /// Of all tokens, which `shape` says how to arrange.
    fn new(job: &GatedDelta, qkv: &Array, gates: &Array, shape: &[i32]) -> Result<Self, Exception> {
        let DeltaHeads { keys, values, key_dim, value_dim } = job.heads;
        let wide = |array: Array| array.as_dtype(Dtype::Float32);
        let part = |from: i32, width: i32, of_token: &[i32]| {
            wide(qkv.try_index((.., .., from..from + width))?)?.reshape(&[shape, of_token].concat())
        };
        let of_gates = [shape, &[keys, values / keys]].concat();
        let gate = |range: std::ops::Range<i32>| wide(gates.try_index((.., .., range))?);
        let time = logaddexp(gate(values..2 * values)?.add(&job.biases)?, number(0.0, Dtype::Float32)?)?;
        let width = job.heads.key_width();
        Ok(Self {
            query: part(0, width, &[keys, 1, key_dim])?,
            key: part(width, width, &[keys, 1, key_dim])?,
            value: part(2 * width, job.heads.value_width(), &[keys, values / keys, value_dim])?,
            beta: sigmoid(gate(0..values)?)?.reshape(&of_gates)?,
            log_decay: exp(&job.log_rates)?.multiply(time)?.negative()?.reshape(&of_gates)?,
        })
    }

    /// Those of chunks, `[chunks, keys, shared, tokens, …]`. A place without a token has zeros: it learns nothing, and
    /// leaves the state as it is.
    fn cut(self, cut: &Cut) -> Result<Self, Exception> {
        let of_chunks = |array: &Array| {
            let none = zeros_dtype(&[&[1], &array.shape()[1..]].concat(), Dtype::Float32)?;
            let taken = take_axis(concatenate(&[array, &none], 0)?, &cut.tokens, 0)?;
            let axes: &[i32] = if taken.ndim() == 5 { &[0, 2, 3, 1, 4] } else { &[0, 2, 3, 1] };
            taken.transpose_axes(axes)
        };
        Ok(Self {
            query: of_chunks(&self.query)?,
            key: of_chunks(&self.key)?,
            value: of_chunks(&self.value)?,
            beta: of_chunks(&self.beta)?,
            log_decay: of_chunks(&self.log_decay)?,
        })
    }
}

impl Chunks {
    fn new(inputs: &Inputs, size: i32) -> Result<Self, Exception> {
        let Inputs { query, key, value, beta, log_decay } = inputs;
        let column = |array: &Array| array.expand_dims(-1);
        let faded = log_decay.cumsum(-1, None, None)?;
        let beta = column(beta)?;
        let since_begin = exp(column(&faded)?)?;
        // Of a later token it would be above 1, and may be too large for a float.
        let later = number(f32::NEG_INFINITY, Dtype::Float32)?;
        let between = column(&faded)?.subtract(faded.expand_dims(-2)?)?;
        let between = exp(select(mask(size, |to, from| from <= to), between, later)?)?;
        let transposed = key.swap_axes(-1, -2)?;
        let earlier = mask(size, |to, from| from < to).as_dtype(Dtype::Float32)?;
        let known = key.matmul(&transposed)?.multiply(&between)?.multiply(&beta)?.multiply(earlier)?;
        let solved = inverse(&known, size)?;
        // `[.., 1]`
        let last = faded.try_index((.., .., .., size - 1..size))?;
        let to_end = exp(last.subtract(&faded)?)?.expand_dims(-2)?;
        Ok(Self {
            learned: solved.matmul(value.multiply(&beta)?)?,
            known: solved.matmul(key.multiply(&since_begin)?.multiply(&beta)?)?,
            asked: query.multiply(&since_begin)?,
            scores: query.matmul(&transposed)?.multiply(&between)?,
            kept: transposed.multiply(to_end)?,
            left: exp(column(&last)?)?,
        })
    }
}

/// `(1 + a)^-1` of matrices that have numbers only below their diagonals. Of blocks of one it is 1, and of blocks of twice the
/// size `x - x b x`, with `b` what of `a` is between the halves: as exact as solving line by line.
fn inverse(a: &Array, size: i32) -> Result<Array, Exception> {
    let mut x = eye::<f32>(size, None, None)?;
    let mut half = 1;
    while half < size {
        let is_between = |to: i32, from: i32| to / half == from / half + 1 && to / half % 2 == 1;
        let between = a.multiply(mask(size, is_between).as_dtype(Dtype::Float32)?)?;
        x = x.subtract(x.matmul(between)?.matmul(&x)?)?;
        half *= 2;
    }
    Ok(x)
}

/// bool `[size, size]`.
fn mask(size: i32, is_in: impl Fn(i32, i32) -> bool) -> Array {
    let values: Vec<bool> = (0..size)
        .flat_map(|to| (0..size).map(move |from| (to, from)))
        .map(|(to, from)| is_in(to, from))
        .collect();
    Array::from_slice(&values, &[size, size])
}

#[cfg(test)]
mod tests;
