//! Attention over the sequences of a step, on whatever keeps their keys and values.

use std::cell::RefCell;

use mlx_ext::cpu;
use mlx_rs::{
    Array,
    error::Exception,
    fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention},
    ops::{concatenate, indexing::TryIndexOp},
};

use super::{ModelError, SequenceKv, StepRow, kv::KvCache, rope::Rope};

/// Heads of a layer's attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    /// Of queries.
    pub(super) queries: i32,
    /// Of keys and values; divides the former.
    pub(super) kv: i32,
    /// Components of each.
    pub(super) dim: i32,
}

/// The attention of one step, for each layer in turn.
pub(super) struct StepAttention<'a> {
    heads: Heads,
    rope: &'a Rope,
    kind: Kind<'a>,
}

enum Kind<'a> {
    /// All sequences at once, by a primitive of our own.
    Paged { step: cpu::Step, cos: Array, sin: Array },
    /// One sequence after the other, of MLX's operations.
    Grown {
        /// Position of each token: int32 `[tokens]`.
        positions: Array,
        /// Each sequence and how many new tokens it has.
        sequences: RefCell<Vec<(&'a mut SequenceKv, i32)>>,
    },
}

impl<'a> StepAttention<'a> {
    /// Makes room for the rows' new tokens. The rows' lengths stay as they are until the step has been evaluated.
    pub(super) fn begin(
        cache: &KvCache,
        heads: Heads,
        rope: &'a Rope,
        rows: &'a mut [StepRow<'_>],
    ) -> Result<Self, ModelError> {
        let kind = match cache.blocks() {
            Some(blocks) => {
                let longest = rows.iter().map(|row| row.kv.len() + row.tokens.len()).max().unwrap_or(0);
                let (cos, sin) = rope.table(longest);
                let mut step_rows = Vec::with_capacity(rows.len());
                for row in rows {
                    let (position, new_tokens) = (row.kv.len() as i32, row.tokens.len() as i32);
                    let blocks = row.kv.reserve(row.tokens.len())?;
                    step_rows.push(cpu::StepRow { new_tokens, position, blocks });
                }
                Kind::Paged { step: blocks.pool.step(&step_rows)?, cos, sin }
            }
            None => {
                let positions: Vec<i32> =
                    rows.iter().flat_map(|row| (row.kv.len() as i32..).take(row.tokens.len())).collect();
                let sequences = rows.iter_mut().map(|row| (&mut *row.kv, row.tokens.len() as i32)).collect();
                Kind::Grown {
                    positions: Array::from_slice(&positions, &[positions.len() as i32]),
                    sequences: RefCell::new(sequences),
                }
            }
        };
        Ok(Self { heads, rope, kind })
    }

    /// `qkv` `[tokens, (queries + 2 kv) * dim]` of one layer, all rows' tokens behind each other. Appends its keys and
    /// values and returns `[tokens, queries * dim]`; lazy.
    pub(super) fn attend(&self, layer: usize, qkv: &Array) -> Result<Array, Exception> {
        let scale = 1.0 / (self.heads.dim as f32).sqrt();
        match &self.kind {
            Kind::Paged { step, cos, sin } => step.attend(&cpu::Attention {
                qkv,
                cos,
                sin,
                layer: layer as i32,
                heads: self.heads.queries,
                scale,
                window: None,
                traditional: self.rope.traditional(),
            }),
            Kind::Grown { positions, sequences } => {
                let (queries, keys, values) = self.split(qkv)?;
                let queries = self.rope.apply(&queries, positions)?;
                let keys = self.rope.apply(&keys, positions)?;
                let mut attended = Vec::new();
                let mut start = 0;
                for (kv, new) in sequences.borrow_mut().iter_mut() {
                    let end = start + *new;
                    let own = |x: &Array| x.try_index(start..end)?.swap_axes(0, 1)?.expand_dims(0);
                    let (keys, values) = kv.append(layer, &own(&keys)?, &own(&values)?)?;
                    attended.push(self.attend_one(&own(&queries)?, &keys, &values, scale)?);
                    start = end;
                }
                concatenate(&attended, 0)
            }
        }
    }

    /// `[tokens, heads, dim]` each.
    fn split(&self, qkv: &Array) -> Result<(Array, Array, Array), Exception> {
        let Heads { queries, kv, dim } = self.heads;
        let heads = qkv.reshape(&[qkv.dim(0), queries + 2 * kv, dim])?;
        let part = |from: i32, to: i32| heads.try_index((.., from..to, ..));
        Ok((part(0, queries)?, part(queries, queries + kv)?, part(queries + kv, queries + 2 * kv)?))
    }

    /// One sequence: `queries` `[1, heads, new, dim]`, `keys` and `values` `[1, kv_heads, all, dim]`, the new tokens
    /// being the last of all. Returns `[new, heads * dim]`.
    fn attend_one(
        &self,
        queries: &Array,
        keys: &Array,
        values: &Array,
        scale: f32,
    ) -> Result<Array, Exception> {
        let new = queries.dim(2);
        let mask = (new > 1).then_some(ScaledDotProductAttentionMask::Causal);
        scaled_dot_product_attention(queries, keys, values, scale, mask, None)?
            .transpose_axes(&[0, 2, 1, 3])?
            .reshape(&[new, self.heads.queries * self.heads.dim])
    }
}
