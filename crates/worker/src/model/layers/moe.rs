//! Experts in place of a feed-forward network, with a residual connection.

use mlx_rs::{Array, error::Exception};

use super::{
    BlockNames, FusedLinear, Mlp, MlpParams, ModelError, Normalization, SublayerNorms, Weights,
    linear::load_storage, load_matrix,
};
use crate::backend::{Activation, Backend, ExpertSizes, Experts, Gate, Gated, Mix, Storage, StoredExperts};

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
    /// An expert that every token goes through.
    pub(in crate::model) shared: Option<SharedExpert>,
}

/// An expert that every token goes through, multiplied by sigmoid of a gate.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct SharedExpert {
    /// Below the layer's name.
    pub(in crate::model) name: &'static str,
    /// Of the gate, likewise.
    pub(in crate::model) gate: &'static str,
    pub(in crate::model) intermediate_size: i32,
}

/// `residual + sigmoid(gate(n)) * shared(n) + Σ weight * expert(n)` with `n = before(x)`.
pub(in crate::model) struct Moe {
    before: Option<Normalization>,
    router: FusedLinear,
    experts: Experts,
    /// The shared one, and its gate.
    shared: Option<(Mlp, FusedLinear)>,
    plan: MoePlan,
    gate: Gate,
    backend: Backend,
}

impl Moe {
    /// Takes the router and the experts, which may be stacked or stored one by one; `layer` stands before their names.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        layer: &str,
        (plan, hidden_size, gate): (MoePlan, i32, Gate),
        before: Option<Normalization>,
    ) -> Result<Self, ModelError> {
        let MoePlan { names, count, intermediate_size: inner, .. } = plan;
        let router = format!("{layer}.{}", names.router);
        let router = load_matrix(weights, &router, [count, hidden_size], false)?;
        let shapes = [[inner, hidden_size], [inner, hidden_size], [hidden_size, inner]];
        let mut part = |which: usize| {
            let stacked = format!("{layer}.{}", names.stacked[which]);
            let [outputs, inputs] = shapes[which];
            if weights.contains(&format!("{stacked}.weight")) {
                return load_experts(weights, &stacked, &[count, outputs, inputs])
                    .map(StoredExperts::Stacked);
            }
            let name = |expert| format!("{layer}.{}.{expert}.{}", names.expert, names.parts[which]);
            let one = |expert| load_experts(weights, &name(expert), &shapes[which]);
            (0..count).map(one).collect::<Result<_, ModelError>>().map(StoredExperts::Separate)
        };
        let stored = [part(0)?, part(1)?, part(2)?];
        let backend = weights.backend();
        let experts = backend.experts(stored, ExpertSizes { count, inputs: hidden_size, inner })?;
        let router = FusedLinear::new(None, vec![router], weights);
        let shared = plan.shared.map(|shared| load_shared(weights, layer, (shared, hidden_size, gate)));
        Ok(Self { before, router, experts, shared: shared.transpose()?, plan, gate, backend })
    }

    /// `x`, `residual` and the result: `[tokens, hidden]`; lazy.
    pub(in crate::model) fn forward(&self, x: &Array, residual: &Array) -> Result<Array, Exception> {
        let normed = self.before.as_ref().map(|norm| norm.forward(x)).transpose()?;
        let x = normed.as_ref().unwrap_or(x);
        let shared = match &self.shared {
            Some((expert, gate)) => Some(self.backend.gated(&Gated {
                x: &expert.product(x)?,
                gate: &gate.forward(x, None)?,
                activation: Activation::Sigmoid,
                residual: Some(residual),
            })?),
            None => None,
        };
        let residual = shared.as_ref().unwrap_or(residual);
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

fn load_shared(
    weights: &mut Weights<'_>,
    layer: &str,
    (shared, hidden_size, gate): (SharedExpert, i32, Gate),
) -> Result<(Mlp, FusedLinear), ModelError> {
    let params = MlpParams {
        hidden_size,
        intermediate_size: shared.intermediate_size,
        bias: false,
        gate,
        fused: false,
        residual_factor: 1.0,
        parts: BlockNames::LLAMA.mlp_parts,
    };
    let expert = Mlp::load(weights, &format!("{layer}.{}", shared.name), &params, SublayerNorms::default())?;
    let gate = load_matrix(weights, &format!("{layer}.{}", shared.gate), [1, hidden_size], false)?;
    Ok((expert, FusedLinear::new(None, vec![gate], weights)))
}

/// An expert's matrix, or one part of all of them.
fn load_experts(weights: &mut Weights<'_>, name: &str, shape: &[i32]) -> Result<Storage, ModelError> {
    let storage = load_storage(weights, name, shape)?;
    let backend = weights.backend();
    weights.grown(storage, |storage| backend.readable_by_experts(storage))
}
