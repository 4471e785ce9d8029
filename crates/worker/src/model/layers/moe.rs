//! Experts in place of a feed-forward network, with a residual connection.

use mlx_rs::{Array, Dtype, error::Exception, ops::indexing::TryIndexOp};

use super::{
    BlockNames, FusedLinear, Mlp, MlpParams, ModelError, NormParams, Normalization, RoutingRule,
    SublayerNorms, Weights, linear::load_storage, load_matrix,
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
    /// Likewise, of factors of each expert's weights.
    pub(in crate::model) factors: Option<&'static str>,
    /// The router's own normalization of what comes before that of experts.
    pub(in crate::model) router_norm: Option<RouterNorm>,
    /// Where gates and ups of all experts may be stored as one tensor: its name and that of downs, below the layer's.
    pub(in crate::model) fused: Option<[&'static str; 2]>,
    /// An expert that every token goes through.
    pub(in crate::model) shared: Option<SharedExpert>,
}

/// RMS normalization of what a router gets.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct RouterNorm {
    /// Of its weights, below the layer's name.
    pub(in crate::model) weights: &'static str,
    /// Of the weights.
    pub(in crate::model) factor: f32,
    pub(in crate::model) eps: f32,
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
        Self {
            names,
            count,
            intermediate_size,
            rule,
            bias: false,
            correction: None,
            factors: None,
            router_norm: None,
            fused: None,
            shared: None,
        }
    }
}

/// `residual + sigmoid(gate(n)) * shared(n) + Σ weight * expert(n)` with `n = before(x)`.
pub(in crate::model) struct Moe {
    before: Option<Normalization>,
    router: FusedLinear,
    /// Whether the router normalizes by itself.
    has_router_norm: bool,
    correction: Option<Array>,
    factors: Option<Array>,
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
        let MoePlan { count, intermediate_size: inner, rule, .. } = plan;
        let mut of_experts = |name: &str| load_of_experts(weights, &format!("{layer}.{name}"), count);
        let correction = plan.correction.map(&mut of_experts).transpose()?;
        let factors = plan.factors.map(&mut of_experts).transpose()?;
        let shared = plan.shared.map(|shared| load_shared(weights, layer, (shared, hidden_size, gate)));
        let router = format!("{layer}.{}", plan.names.router);
        let router = load_matrix(weights, &router, [count, hidden_size], plan.bias)?;
        let router_norm = plan.router_norm.map(|norm| norm.load(weights, layer, hidden_size)).transpose()?;
        let stored = load_stored(weights, layer, (plan, hidden_size))?;
        let backend = weights.backend();
        weights.count_private(backend.copied_experts(&stored));
        let experts = backend.experts(stored, ExpertSizes { count, inputs: hidden_size, inner })?;
        Ok(Self {
            before,
            has_router_norm: router_norm.is_some(),
            router: FusedLinear::new(router_norm, vec![router], weights),
            correction,
            factors,
            experts,
            shared: shared.transpose()?,
            rule,
            gate,
            backend,
        })
    }

    /// `x`, `residual` and the result: `[tokens, hidden]`; lazy.
    pub(in crate::model) fn forward(&self, x: &Array, residual: &Array) -> Result<Array, Exception> {
        let normed = self.normed(x)?;
        let shared = match &self.shared {
            None => None,
            Some((expert, None)) => Some(expert.forward(&normed, residual)?),
            Some((expert, Some(gate))) => Some(self.backend.gated(&Gated {
                x: &expert.product(&normed)?,
                gate: &gate.forward(&normed, None)?,
                activation: Activation::Sigmoid,
                residual: Some(residual),
            })?),
        };
        self.mix(x, &normed, Some(shared.as_ref().unwrap_or(residual)))
    }

    /// What the experts give alone, without the shared one: `[tokens, hidden]`; lazy.
    pub(super) fn product(&self, x: &Array) -> Result<Array, Exception> {
        self.mix(x, &self.normed(x)?, None)
    }

    fn normed(&self, x: &Array) -> Result<Array, Exception> {
        self.before.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(x))
    }

    fn mix(&self, x: &Array, normed: &Array, residual: Option<&Array>) -> Result<Array, Exception> {
        let router = self.router.forward(if self.has_router_norm { x } else { normed }, None)?;
        let (correction, factors) = (self.correction.as_ref(), self.factors.as_ref());
        let routing = Routing { router: &router, rule: self.rule, correction, factors };
        self.backend.mix(&Mix { x: normed, routing, gate: self.gate, residual }, &self.experts)
    }
}

impl RouterNorm {
    fn load(self, weights: &mut Weights<'_>, layer: &str, width: i32) -> Result<Normalization, ModelError> {
        let stored = weights.take_float(&format!("{layer}.{}", self.weights), &[width])?;
        let weight = stored.as_dtype(Dtype::Float32)?.multiply(Array::from_f32(self.factor))?;
        Normalization::new(weights.backend(), NormParams::rms(self.eps), &weight, None)
    }
}

/// Gates, ups and downs.
fn load_stored(
    weights: &mut Weights<'_>,
    layer: &str,
    (plan, hidden): (MoePlan, i32),
) -> Result<[StoredExperts; 3], ModelError> {
    let MoePlan { names, count, intermediate_size: inner, bias, .. } = plan;
    if let Some(fused) = plan.fused.map(|names| names.map(|name| format!("{layer}.{name}")))
        && fused.iter().any(|name| is_stored(weights, name))
    {
        return load_fused(weights, &fused, [count, inner, hidden]);
    }
    let shapes = [[inner, hidden], [inner, hidden], [hidden, inner]];
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
    Ok([part(0)?, part(1)?, part(2)?])
}

/// The same of all experts' gates and ups in one tensor, and their downs in another.
fn load_fused(
    weights: &mut Weights<'_>,
    [gate_up, down]: &[String; 2],
    [count, inner, hidden]: [i32; 3],
) -> Result<[StoredExperts; 3], ModelError> {
    let mut load = |name: &str, shape: [i32; 3]| match weights.contains(name) {
        // As transformers has it, without `.weight`.
        true => weights.take_float(name, &shape).map(Storage::Dense),
        false => load_experts(weights, name, &shape),
    };
    let both = load(gate_up, [count, 2 * inner, hidden])?;
    let down = load(down, [count, hidden, inner])?;
    let half = |first: i32| {
        let rows = |expert| both.each(|all| all.try_index(expert)?.try_index(first..first + inner));
        let separate = (0..count).map(rows).collect::<Result<_, Exception>>()?;
        Ok::<_, ModelError>(StoredExperts { matrices: StoredMatrices::Separate(separate), bias: None })
    };
    let down = StoredExperts { matrices: StoredMatrices::Stacked(down), bias: None };
    Ok([half(0)?, half(inner)?, down])
}

/// Whether there is such a tensor, or such a module.
fn is_stored(weights: &Weights<'_>, name: &str) -> bool {
    weights.contains(name) || weights.contains(&format!("{name}.weight"))
}

/// One number of each, as float32, whatever it is stored in: sums with scores are compared.
fn load_of_experts(weights: &mut Weights<'_>, name: &str, count: i32) -> Result<Array, ModelError> {
    let numbers = weights.take_float(name, &[count])?.as_dtype(Dtype::Float32)?;
    numbers.eval()?;
    Ok(numbers)
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
