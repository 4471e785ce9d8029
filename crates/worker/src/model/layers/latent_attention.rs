//! Multi-head latent attention with a residual connection: of a token a latent vector is kept that all heads share, and a key
//! that is rotated.
//!
//! Keys and values of a head are products of the latent vector with matrices of the head. Here these matrices meet the queries
//! and the outputs instead ("absorbed"): so attention has one head of keys and values, whose keys are the rotated key and the
//! latent vector, and whose values are the same. What outputs have of the rotated part is dropped.

use std::ops::Range;

use mlx_rs::{
    Array,
    error::Exception,
    ops::{concatenate, indexing::TryIndexOp},
};

use super::{
    FusedLinear, ModelError, NormParams, Normalization, SublayerNorms, Weights,
    linear::{OutputLinear, load_storage},
    load_matrix,
};
use crate::backend::{AttentionSpec, Backend, HeadProducts, Matrix, Rowwise, StepMemory};

/// Of the normalizations inside, whatever the configuration says of the others.
const EPS: f32 = 1e-6;

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct LatentPlan {
    /// Of what queries are made from; `None`: of the token itself.
    pub(in crate::model) query_rank: Option<i32>,
    /// Of the latent vector.
    pub(in crate::model) rank: i32,
    /// Components of a head's query that are rotated.
    pub(in crate::model) rotated: i32,
    /// Its other components.
    pub(in crate::model) plain: i32,
    /// Components of a head's value.
    pub(in crate::model) value: i32,
    /// Whether the first and the last product have biases.
    pub(in crate::model) bias: bool,
}

/// `residual + factor * after(attention(before(x)))`.
pub(in crate::model) struct LatentAttention {
    before: Option<Normalization>,
    queries: Queries,
    latent: FusedLinear,
    latent_norm: Normalization,
    /// From a query's plain components to the latent vector.
    embed: HeadMatrix,
    /// From the latent vector to a value.
    unembed: HeadMatrix,
    o_proj: OutputLinear,
    plan: LatentPlan,
    spec: AttentionSpec,
    layer: usize,
    backend: Backend,
}

enum Queries {
    Whole(FusedLinear),
    /// Through a vector of lower rank.
    LowRank(FusedLinear, FusedLinear),
}

/// Of all heads one after the other; of each some rows are used.
struct HeadMatrix {
    matrix: Matrix,
    rows: Range<i32>,
}

impl LatentAttention {
    /// Takes `<name>.kv_a_proj_with_mqa` and so on. The heads' matrices may stand in `kv_b_proj`, or in `embed_q` and
    /// `unembed_out`, as mlx-lm converts them.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        (plan, spec, layer): (LatentPlan, AttentionSpec, usize),
        (hidden_size, residual_factor): (i32, f32),
        norms: SublayerNorms,
    ) -> Result<Self, ModelError> {
        let part = |part: &str| format!("{name}.{part}");
        let heads = spec.heads.queries;
        let latent = [plan.rank + plan.rotated, hidden_size];
        let latent = load_matrix(weights, &part("kv_a_proj_with_mqa"), latent, plan.bias)?;
        let inner_norm = NormParams::rms(EPS);
        let latent_norm = Normalization::load(weights, &part("kv_a_layernorm"), plan.rank, inner_norm)?;
        let queries = Queries::load(weights, name, (plan, heads, hidden_size))?;
        let (embed, unembed) = load_heads(weights, name, plan, heads)?;
        let output = [hidden_size, heads * plan.value];
        let output = load_matrix(weights, &part("o_proj"), output, plan.bias)?;
        Ok(Self {
            before: norms.before,
            queries,
            latent: FusedLinear::new(None, vec![latent], weights),
            latent_norm,
            embed,
            unembed,
            o_proj: OutputLinear::new(output, norms.after, residual_factor, weights),
            plan,
            spec,
            layer,
            backend: weights.backend(),
        })
    }

    /// What distinguishes it from other layers' attention.
    pub(in crate::model) fn spec(&self) -> &AttentionSpec {
        &self.spec
    }

    /// `x`, `residual` (which mostly is `x`) and the result: `[tokens, hidden]`. Appends the tokens' keys and values; lazy.
    pub(in crate::model) fn forward(
        &self,
        x: &Array,
        residual: &Array,
        step: &StepMemory<'_>,
    ) -> Result<Array, Exception> {
        let normed = self.before.as_ref().map(|norm| norm.forward(x)).transpose()?;
        let x = normed.as_ref().unwrap_or(x);
        let LatentPlan { rank, rotated, plain, .. } = self.plan;
        let queries =
            self.products(&self.queries.forward(x)?, &self.embed, (plain..plain + rotated, 0..plain))?;
        // The latent vector is normalized, and the key behind it taken as it is.
        let latent = self.latent.forward(x, None)?;
        let norms = [(&self.latent_norm.norm, 1)];
        let latent = self.backend.rowwise(&Rowwise { norms: &norms, ..Rowwise::of(&latent) })?;
        let key = latent.try_index((.., rank..))?;
        let latent = latent.try_index((.., ..rank))?;
        let qkv = concatenate(&[&queries, &key, &latent, &key, &latent], -1)?;
        let attended = step.attend(&self.spec, self.layer, &qkv)?;
        let values = self.products(&attended, &self.unembed, (0..0, rotated..rotated + rank))?;
        self.o_proj.forward(&values, residual)
    }

    fn products(
        &self,
        x: &Array,
        matrix: &HeadMatrix,
        (copied, inputs): (Range<i32>, Range<i32>),
    ) -> Result<Array, Exception> {
        let HeadMatrix { matrix, rows } = matrix;
        let (heads, rows) = (self.spec.heads.queries, rows.clone());
        self.backend.head_products(&HeadProducts { x, heads, copied, inputs, matrix, rows })
    }
}

impl Queries {
    fn load(
        weights: &mut Weights<'_>,
        name: &str,
        (plan, heads, hidden_size): (LatentPlan, i32, i32),
    ) -> Result<Self, ModelError> {
        let part = |part: &str| format!("{name}.{part}");
        let width = heads * (plan.plain + plan.rotated);
        let Some(rank) = plan.query_rank else {
            let whole = load_matrix(weights, &part("q_proj"), [width, hidden_size], false)?;
            return Ok(Self::Whole(FusedLinear::new(None, vec![whole], weights)));
        };
        let first = load_matrix(weights, &part("q_a_proj"), [rank, hidden_size], plan.bias)?;
        let norm = Normalization::load(weights, &part("q_a_layernorm"), rank, NormParams::rms(EPS))?;
        let second = load_matrix(weights, &part("q_b_proj"), [width, rank], false)?;
        let first = FusedLinear::new(None, vec![first], weights);
        Ok(Self::LowRank(first, FusedLinear::new(Some(norm), vec![second], weights)))
    }

    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        match self {
            Self::Whole(whole) => whole.forward(x, None),
            Self::LowRank(first, second) => second.forward(&first.forward(x, None)?, None),
        }
    }
}

/// The matrices that queries and outputs meet.
fn load_heads(
    weights: &mut Weights<'_>,
    name: &str,
    plan: LatentPlan,
    heads: i32,
) -> Result<(HeadMatrix, HeadMatrix), ModelError> {
    let LatentPlan { rank, plain, value, .. } = plan;
    let backend = weights.backend();
    if weights.contains(&format!("{name}.embed_q.weight")) {
        let mut load = |part: &str, rows: i32, columns: i32| {
            let storage = load_storage(weights, &format!("{name}.{part}"), &[heads, rows, columns])?;
            let flat = storage.each(|array| array.reshape(&[-1, array.dim(-1)]))?;
            Ok::<_, ModelError>(HeadMatrix { matrix: backend.matrix(flat, None)?, rows: 0..rows })
        };
        return Ok((load("embed_q", rank, plain)?, load("unembed_out", value, rank)?));
    }
    let both = load_storage(weights, &format!("{name}.kv_b_proj"), &[heads * (plain + value), rank])?;
    let turned = backend.transposed_heads(&both, heads, 0..plain)?;
    weights.count_private(turned.bytes());
    let embed = HeadMatrix { matrix: backend.matrix(turned, None)?, rows: 0..rank };
    Ok((embed, HeadMatrix { matrix: backend.matrix(both, None)?, rows: plain..plain + value }))
}
