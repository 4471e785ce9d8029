//! Inputs of which every token sees all tokens of its own input and nothing else: attention without a cache.
//!
//! Neighbours of one length are one product of many small matrices. Where rows may depend on each other, so are neighbours of
//! similar length, padded under a mask.

use std::ops::Range;

use mlx_rs::{
    Array,
    error::Exception,
    fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention},
    ops::{
        concatenate,
        indexing::{TryIndexOp, take_axis},
    },
};

use super::super::Heads;

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
        Self { groups }
    }

    /// `qkv` is `[tokens, 3 * heads * dim]`: queries, keys and values. Returns `[tokens, heads * dim]`; lazy.
    pub(crate) fn attend(&self, heads: Heads, scale: f32, qkv: &Array) -> Result<Array, Exception> {
        let parts = self.groups.iter().map(|group| group.attend(heads, scale, qkv));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        match &parts[..] {
            [one] => Ok(one.clone()),
            several => concatenate(several, 0),
        }
    }
}

impl Group {
    fn attend(&self, heads: Heads, scale: f32, qkv: &Array) -> Result<Array, Exception> {
        let Heads { queries: heads, dim, .. } = heads;
        let qkv = qkv.try_index(self.tokens.clone())?;
        let padding = self.lens.iter().any(|len| *len != self.len).then(|| self.padding());
        let qkv = match &padding {
            Some(padding) => take_axis(&qkv, &padding.into, 0)?,
            None => qkv,
        };
        let inputs = self.lens.len() as i32;
        // [3, inputs, heads, len, dim]
        let qkv = qkv.reshape(&[inputs, self.len, 3, heads, dim])?.transpose_axes(&[2, 0, 3, 1, 4])?;
        let seen = padding.as_ref().map(|padding| &padding.seen);
        let mut parts = Vec::new();
        // So many inputs, or so many queries of one, as there may be scores. That depends on the length alone.
        let of_one = i64::from(heads) * i64::from(self.len) * i64::from(self.len);
        let together = (MAX_SCORES / of_one.max(1)).clamp(1, i64::from(inputs)) as i32;
        for first in (0..inputs).step_by(together as usize) {
            let some = first..(first + together).min(inputs);
            let part = |which: i32| qkv.try_index((which, some.clone()));
            let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
            let seen = seen.map(|seen| seen.try_index(some.clone())).transpose()?;
            let attended = attend_all(scale, &queries, (&keys, &values), seen.as_ref())?;
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

/// All `[inputs, heads, len, dim]`. Of a long input some queries after the other.
fn attend_all(
    scale: f32,
    queries: &Array,
    (keys, values): (&Array, &Array),
    seen: Option<&Array>,
) -> Result<Array, Exception> {
    let (inputs, heads, len) = (queries.dim(0), queries.dim(1), queries.dim(2));
    let attend = |queries: &Array| {
        let mask = seen.map(ScaledDotProductAttentionMask::Array);
        scaled_dot_product_attention(queries, keys, values, scale, mask, None)
    };
    let scores_of_query = i64::from(inputs) * i64::from(heads) * i64::from(len);
    let together = (MAX_SCORES / scores_of_query.max(1)).clamp(1, i64::from(len)) as i32;
    if together == len {
        return attend(queries);
    }
    let parts = (0..len).step_by(together as usize).map(|first| {
        let some = first..(first + together).min(len);
        attend(&queries.try_index((.., .., some))?)
    });
    concatenate(&parts.collect::<Result<Vec<_>, _>>()?, 2)
}
