//! Experts in place of a feed-forward network, with a residual connection.

use mlx_rs::{Array, error::Exception};

use super::{FusedLinear, ModelError, Normalization, Weights, linear::load_storage, load_matrix};
use crate::backend::{Backend, ExpertSizes, Experts, Gate, Mix, Storage, StoredExperts, StoredMatrices};

/// Names below the layer's.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct MoeNames {
    /// Of what chooses experts.
    pub(in crate::model) router: &'static str,
    /// Of gates, ups and downs, each of all experts.
    pub(in crate::model) stacked: [&'static str; 3],
    /// Before each expert's number.
    pub(in crate::model) expert: &'static str,
    /// Of an expert's gate, up and down, behind it.
    pub(in crate::model) parts: [&'static str; 3],
}

/// Experts of a model, alike in all layers that have any.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct MoePlan {
    pub(in crate::model) names: MoeNames,
    /// How many experts there are.
    pub(in crate::model) count: i32,
    /// How many of them a token goes through.
    pub(in crate::model) chosen: i32,
    /// Their inner size.
    pub(in crate::model) intermediate_size: i32,
    /// Whether the weights of those chosen add up to 1.
    pub(in crate::model) normalized: bool,
}

/// `residual + Σ weight * expert(before(x))`.
pub(in crate::model) struct Moe {
    before: Option<Normalization>,
    router: FusedLinear,
    experts: Experts,
    plan: MoePlan,
    gate: Gate,
    backend: Backend,
}

impl Moe {
    /// Takes the router and the experts, which may be stacked or stored one by one; `layer` stands before their names. With
    /// `bias` all of their matrices have biases, those of the experts stacked.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        layer: &str,
        (plan, hidden_size, gate, bias): (MoePlan, i32, Gate, bool),
        before: Option<Normalization>,
    ) -> Result<Self, ModelError> {
        let MoePlan { names, count, intermediate_size: inner, .. } = plan;
        let router = format!("{layer}.{}", names.router);
        let router = load_matrix(weights, &router, [count, hidden_size], bias)?;
        let shapes = [[inner, hidden_size], [inner, hidden_size], [hidden_size, inner]];
        let mut part = |which: usize| {
            let stacked = format!("{layer}.{}", names.stacked[which]);
            let [outputs, inputs] = shapes[which];
            let matrices = if weights.contains(&format!("{stacked}.weight")) {
                load_experts(weights, &stacked, &[count, outputs, inputs]).map(StoredMatrices::Stacked)
            } else {
                let name = |expert| format!("{layer}.{}.{expert}.{}", names.expert, names.parts[which]);
                let one = |expert| load_experts(weights, &name(expert), &shapes[which]);
                (0..count).map(one).collect::<Result<_, ModelError>>().map(StoredMatrices::Separate)
            };
            let bias = bias.then(|| weights.take_float(&format!("{stacked}.bias"), &[count, outputs]));
            Ok::<_, ModelError>(StoredExperts { matrices: matrices?, bias: bias.transpose()? })
        };
        let stored = [part(0)?, part(1)?, part(2)?];
        let backend = weights.backend();
        let experts = backend.experts(stored, ExpertSizes { count, inputs: hidden_size, inner })?;
        let router = FusedLinear::new(None, vec![router], weights);
        Ok(Self { before, router, experts, plan, gate, backend })
    }

    /// `x`, `residual` and the result: `[tokens, hidden]`; lazy.
    pub(in crate::model) fn forward(&self, x: &Array, residual: &Array) -> Result<Array, Exception> {
        let normed = self.before.as_ref().map(|norm| norm.forward(x)).transpose()?;
        let x = normed.as_ref().unwrap_or(x);
        let routing = self.router.forward(x, None)?;
        let job = Mix {
            x,
            routing: &routing,
            chosen: self.plan.chosen,
            normalized: self.plan.normalized,
            gate: self.gate,
            residual,
        };
        self.backend.mix(&job, &self.experts)
    }
}

/// An expert's matrix, or one part of all of them.
fn load_experts(weights: &mut Weights<'_>, name: &str, shape: &[i32]) -> Result<Storage, ModelError> {
    let storage = load_storage(weights, name, shape)?;
    let backend = weights.backend();
    weights.grown(storage, |storage| backend.readable(storage))
}
