//! Inputs that are whole: a token sees tokens of its own input and nothing else, so attention needs no cache. Which of them it
//! sees, a layer's [`AttentionSpec`] says.
//!
//! Neighbours of one length are one product of many small matrices. Where rows may depend on each other, so are neighbours of
//! similar length, padded under a mask.

use std::ops::Range;

use mlx_rs::{
    Array,
    error::Exception,
    fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention},
    ops::{
        arange, concatenate,
        indexing::{TryIndexOp, take_axis},
    },
};

use super::{
    super::attention::{AttentionSpec, Heads},
    attention::{rotate, split},
};

/// Lengths are padded to multiples of this, …
const PADDED_TO: i32 = 32;

/// … if inputs may be padded at all.
const NOT_PADDED: i32 = 1;

/// Most scores that are computed at a time: 64 MiB.
const MAX_SCORES: i64 = 1 << 24;

/// Inputs that are computed together, one behind the other.
#[derive(Debug)]
pub(crate) struct PackedInputs {
    groups: Vec<Group>,
    /// Of each token within its input: int32 `[tokens]`.
    positions: Array,
}

/// Neighbours that attend at the same time, each to itself.
#[derive(Debug)]
struct Group {
    /// Their tokens among all.
    tokens: Range<i32>,
    /// How long each of them is.
    lens: Vec<i32>,
    /// What they are padded to.
    len: i32,
}

/// How a group's tokens are found among padded ones and back.
struct Padding {
    /// Of each padded token which of the group's it is.
    into: Array,
    /// Of each of the group's tokens which padded one it is.
    back: Array,
    /// Which tokens are none: boolean `[inputs, 1, 1, len]`.
    seen: Array,
}

impl PackedInputs {
    /// Inputs of these lengths, in order: best with equal ones side by side. `padded`: those of similar length may be padded.
    pub(crate) fn new(lens: &[i32], padded: bool) -> Self {
        let step = if padded { PADDED_TO } else { NOT_PADDED };
        let mut groups: Vec<Group> = Vec::new();
        let mut first = 0;
        for &len in lens {
            let tokens = first..first + len;
            first = tokens.end;
            let padded = (i64::from(len) + i64::from(step - 1)) / i64::from(step) * i64::from(step);
            let padded = i32::try_from(padded).unwrap_or(len);
            match groups.last_mut() {
                Some(group) if group.len == padded => {
                    group.tokens.end = tokens.end;
                    group.lens.push(len);
                }
                _ => groups.push(Group { tokens, lens: vec![len], len: padded }),
            }
        }
        let positions: Vec<i32> = lens.iter().flat_map(|&len| 0..len).collect();
        let positions = Array::from_slice(&positions, &[positions.len() as i32]);
        Self { groups, positions }
    }

    /// What of a layer's attention is not computed here; `None`: all of it is.
    pub(crate) fn unsupported(spec: &AttentionSpec) -> Option<&'static str> {
        let asked = [
            (spec.soft_cap.is_some(), "capped attention scores, in a model that embeds text"),
            (spec.sinks.is_some(), "attention sinks, in a model that embeds text"),
            (
                spec.query_scale.is_some(),
                "queries that grow with their position, in a model that embeds text",
            ),
            (spec.chunked, "attention within chunks, in a model that embeds text"),
        ];
        asked.into_iter().find_map(|(is_asked_for, what)| is_asked_for.then_some(what))
    }

    /// `qkv` is `[tokens, (queries + 2 kv) * dim]`: queries, keys and values. Returns `[tokens, queries * dim]`; lazy.
    pub(crate) fn attend(&self, spec: &AttentionSpec, qkv: &Array) -> Result<Array, Exception> {
        let qkv = match &spec.rope {
            None => qkv.clone(),
            Some(rope) => {
                let (queries, keys, values) = split(spec.heads, qkv)?;
                let (queries, keys) =
                    (rotate(rope, &queries, &self.positions)?, rotate(rope, &keys, &self.positions)?);
                concatenate(&[&queries, &keys, &values], 1)?.reshape(&[qkv.dim(0), qkv.dim(1)])?
            }
        };
        let parts = self.groups.iter().map(|group| group.attend(spec, &qkv));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        match &parts[..] {
            [one] => Ok(one.clone()),
            several => concatenate(several, 0),
        }
    }
}

impl Group {
    fn attend(&self, spec: &AttentionSpec, qkv: &Array) -> Result<Array, Exception> {
        let Heads { queries: heads, kv, dim } = spec.heads;
        let qkv = qkv.try_index(self.tokens.clone())?;
        let padding = self.lens.iter().any(|len| *len != self.len).then(|| self.padding());
        let qkv = match &padding {
            Some(padding) => take_axis(&qkv, &padding.into, 0)?,
            None => qkv,
        };
        let inputs = self.lens.len() as i32;
        // [inputs, heads, len, dim]
        let qkv = qkv.reshape(&[inputs, self.len, heads + 2 * kv, dim])?.transpose_axes(&[0, 2, 1, 3])?;
        let mut parts = Vec::new();
        // So many inputs, or so many queries of one, as there may be scores. That depends on the length alone.
        let of_one = i64::from(heads) * i64::from(self.len) * i64::from(self.len);
        let together = (MAX_SCORES / of_one.max(1)).clamp(1, i64::from(inputs)) as i32;
        for first in (0..inputs).step_by(together as usize) {
            let some = first..(first + together).min(inputs);
            let part = |which: Range<i32>| qkv.try_index((some.clone(), which));
            let (queries, keys) = (part(0..heads)?, part(heads..heads + kv)?);
            let values = part(heads + kv..heads + 2 * kv)?;
            let seen = padding.as_ref().map(|padding| padding.seen.try_index(some.clone())).transpose()?;
            let attended = attend_all(spec, &queries, (&keys, &values), seen.as_ref())?;
            parts.push(
                attended
                    .transpose_axes(&[0, 2, 1, 3])?
                    .reshape(&[some.len() as i32 * self.len, heads * dim])?,
            );
        }
        let all = match &parts[..] {
            [one] => one.clone(),
            several => concatenate(several, 0)?,
        };
        padding.map_or(Ok(all.clone()), |padding| take_axis(&all, &padding.back, 0))
    }

    fn padding(&self) -> Padding {
        let (mut into, mut back, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = 0;
        for &len in &self.lens {
            back.extend((0..len).map(|token| into.len() as i32 + token));
            // What is padded with is seen by nothing.
            into.extend((0..self.len).map(|token| first + token.min(len - 1)));
            seen.extend((0..self.len).map(|token| token < len));
            first += len;
        }
        Padding {
            into: Array::from_slice(&into, &[into.len() as i32]),
            back: Array::from_slice(&back, &[back.len() as i32]),
            seen: Array::from_slice(&seen, &[self.lens.len() as i32, 1, 1, self.len]),
        }
    }
}

/// All `[inputs, heads, len, dim]`. Of a long input some queries after the other. `tokens`: which of the keys are tokens, if
/// some are not: boolean `[inputs, 1, 1, len]`.
fn attend_all(
    spec: &AttentionSpec,
    queries: &Array,
    (keys, values): (&Array, &Array),
    tokens: Option<&Array>,
) -> Result<Array, Exception> {
    let (inputs, heads, len) = (queries.dim(0), queries.dim(1), queries.dim(2));
    let attend = |some: Range<i32>, queries: &Array| {
        let seen = match (seen_by(spec, some, len)?, tokens) {
            (Some(seen), Some(tokens)) => Some(seen.logical_and(tokens)?),
            (seen, tokens) => seen.or_else(|| tokens.cloned()),
        };
        let mask = seen.as_ref().map(ScaledDotProductAttentionMask::Array);
        scaled_dot_product_attention(queries, keys, values, spec.scale, mask, None)
    };
    let scores_of_query = i64::from(inputs) * i64::from(heads) * i64::from(len);
    let together = (MAX_SCORES / scores_of_query.max(1)).clamp(1, i64::from(len)) as i32;
    if together == len {
        return attend(0..len, queries);
    }
    let parts = (0..len).step_by(together as usize).map(|first| {
        let some = first..(first + together).min(len);
        attend(some.clone(), &queries.try_index((.., .., some))?)
    });
    concatenate(&parts.collect::<Result<Vec<_>, _>>()?, 2)
}

/// Which of `len` keys each of the queries at these positions sees: boolean `[queries, len]`; `None`: all.
fn seen_by(spec: &AttentionSpec, positions: Range<i32>, len: i32) -> Result<Option<Array>, Exception> {
    if spec.bidirectional && spec.window.is_none_or(|window| window >= len) {
        return Ok(None);
    }
    let firsts: Vec<i32> = positions.clone().map(|position| spec.first_seen(position)).collect();
    let lasts: Vec<i32> = positions.map(|position| spec.last_seen(position)).collect();
    let column = |of: &[i32]| Array::from_slice(of, &[of.len() as i32, 1]);
    let keys = arange::<_, i32>(0, len, None)?.expand_dims(0)?;
    keys.ge(column(&firsts))?.logical_and(keys.le(column(&lasts))?).map(Some)
}
