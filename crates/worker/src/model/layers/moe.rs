//! Experts in place of a feed-forward network, with a residual connection.

use mlx_rs::{Array, Dtype, error::Exception};

use super::{
    BlockNames, FusedLinear, Mlp, MlpParams, ModelError, Normalization, RoutingRule, SublayerNorms, Weights,
    linear::load_storage, load_matrix,
};
use crate::backend::{
    Activation, Backend, ExpertSizes, Experts, Gate, Gated, Mix, Routing, Storage, StoredExperts,
    StoredMatrices,
};

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
    /// Their inner size.
    pub(in crate::model) intermediate_size: i32,
    /// How a token chooses some of them.
    pub(in crate::model) rule: RoutingRule,
    /// Whether the router and all experts have biases, those of experts stacked.
    pub(in crate::model) bias: bool,
    /// Name of what is added to scores that are compared, below the layer's.
    pub(in crate::model) correction: Option<&'static str>,
    /// An expert that every token goes through.
    pub(in crate::model) shared: Option<SharedExpert>,
}

/// An expert that every token goes through.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct SharedExpert {
    /// Below the layer's name.
    pub(in crate::model) name: &'static str,
    /// Likewise, of what multiplies its result, behind a sigmoid.
    pub(in crate::model) gate: Option<&'static str>,
    pub(in crate::model) intermediate_size: i32,
}

impl MoePlan {
    /// Experts without biases and nothing beside them.
    pub(in crate::model) fn new(
        names: MoeNames,
        count: i32,
        intermediate_size: i32,
        rule: RoutingRule,
    ) -> Self {
        Self { names, count, intermediate_size, rule, bias: false, correction: None, shared: None }
    }
}

/// `residual + sigmoid(gate(n)) * shared(n) + Σ weight * expert(n)` with `n = before(x)`.
pub(in crate::model) struct Moe {
    before: Option<Normalization>,
    router: FusedLinear,
    correction: Option<Array>,
    experts: Experts,
    /// The shared one, and its gate.
    shared: Option<(Mlp, Option<FusedLinear>)>,
    rule: RoutingRule,
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
        let MoePlan { names, count, intermediate_size: inner, rule, bias, .. } = plan;
        let correction =
            plan.correction.map(|name| load_correction(weights, &format!("{layer}.{name}"), count));
        let shared = plan.shared.map(|shared| load_shared(weights, layer, (shared, hidden_size, gate)));
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
        weights.count_private(backend.copied_experts(&stored));
        let experts = backend.experts(stored, ExpertSizes { count, inputs: hidden_size, inner })?;
        let router = FusedLinear::new(None, vec![router], weights);
        let (correction, shared) = (correction.transpose()?, shared.transpose()?);
        Ok(Self { before, router, correction, experts, shared, rule, gate, backend })
    }

    /// `x`, `residual` and the result: `[tokens, hidden]`; lazy.
    pub(in crate::model) fn forward(&self, x: &Array, residual: &Array) -> Result<Array, Exception> {
        let normed = self.before.as_ref().map(|norm| norm.forward(x)).transpose()?;
        let x = normed.as_ref().unwrap_or(x);
        let shared = match &self.shared {
            None => None,
            Some((expert, None)) => Some(expert.forward(x, residual)?),
            Some((expert, Some(gate))) => Some(self.backend.gated(&Gated {
                x: &expert.product(x)?,
                gate: &gate.forward(x, None)?,
                activation: Activation::Sigmoid,
                residual: Some(residual),
            })?),
        };
        let residual = shared.as_ref().unwrap_or(residual);
        let router = self.router.forward(x, None)?;
        let correction = self.correction.as_ref();
        let routing = Routing { router: &router, rule: self.rule, correction, factors: None };
        let job = Mix { x, routing, gate: self.gate, residual: Some(residual) };
        self.backend.mix(&job, &self.experts)
    }
}

/// Float32, whatever it is stored in: sums with scores are compared.
fn load_correction(weights: &mut Weights<'_>, name: &str, count: i32) -> Result<Array, ModelError> {
    let correction = weights.take_float(name, &[count])?.as_dtype(Dtype::Float32)?;
    correction.eval()?;
    Ok(correction)
}

fn load_shared(
    weights: &mut Weights<'_>,
    layer: &str,
    (shared, hidden_size, gate): (SharedExpert, i32, Gate),
) -> Result<(Mlp, Option<FusedLinear>), ModelError> {
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
    let Some(gate) = shared.gate else { return Ok((expert, None)) };
    let gate = load_matrix(weights, &format!("{layer}.{gate}"), [1, hidden_size], false)?;
    Ok((expert, Some(FusedLinear::new(None, vec![gate], weights))))
}

/// An expert's matrix, or one part of all of them.
fn load_experts(weights: &mut Weights<'_>, name: &str, shape: &[i32]) -> Result<Storage, ModelError> {
    let storage = load_storage(weights, name, shape)?;
    let backend = weights.backend();
    weights.changed(storage, |storage| backend.readable(storage))
}
