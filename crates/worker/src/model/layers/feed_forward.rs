//! What follows a layer's attention: a feed-forward network, experts, or both.

use mlx_rs::{Array, error::Exception};

use super::{
    BesideNorms, DecoderConfig, DecoderPlan, Mlp, MlpBesideExperts, MlpParams, ModelError, Moe, MoePlan,
    Normalization, SublayerNorms, Weights,
};

/// Of one layer, with its residual connection.
pub(super) enum FeedForward {
    Dense(Box<Mlp>),
    Sparse(Box<Moe>),
    Both(Box<MlpBesideExperts>),
}

impl FeedForward {
    pub(super) fn load(
        config: &DecoderConfig,
        plan: &DecoderPlan,
        layer: usize,
        (weights, norms): (&mut Weights<'_>, SublayerNorms),
    ) -> Result<Self, ModelError> {
        let experts = plan.experts.filter(|_| plan.sparse.get(layer) == Some(&true));
        match (experts, plan.beside) {
            (None, _) => load_mlp(config, plan, layer, (weights, norms)).map(Box::new).map(Self::Dense),
            (Some(experts), None) => {
                let sizes = (experts, config.hidden_size, plan.gate);
                let moe = Moe::load(weights, &format!("model.layers.{layer}"), sizes, norms.before)?;
                Ok(Self::Sparse(Box::new(moe)))
            }
            (Some(experts), Some(beside)) => {
                load_both((config, plan, layer), (experts, beside), weights, norms)
                    .map(Box::new)
                    .map(Self::Both)
            }
        }
    }

    /// `x`, `residual` (which mostly is `x`) and the result: `[tokens, hidden]`; lazy.
    pub(super) fn forward(&self, x: &Array, residual: &Array) -> Result<Array, Exception> {
        match self {
            Self::Dense(mlp) => mlp.forward(x, residual),
            Self::Sparse(moe) => moe.forward(x, residual),
            Self::Both(both) => both.forward(x, residual),
        }
    }
}

fn load_mlp(
    config: &DecoderConfig,
    plan: &DecoderPlan,
    layer: usize,
    (weights, norms): (&mut Weights<'_>, SublayerNorms),
) -> Result<Mlp, ModelError> {
    let own = plan.intermediate_sizes.get(layer).copied();
    let params = MlpParams {
        hidden_size: config.hidden_size,
        intermediate_size: own.unwrap_or(config.intermediate_size),
        bias: plan.mlp_bias,
        gate: plan.gate,
        fused: plan.fused_gate_up,
        residual_factor: plan.residual_factor,
        parts: plan.names.mlp_parts,
    };
    Mlp::load(weights, &format!("model.layers.{layer}.{}", plan.names.mlp), &params, norms)
}

fn load_both(
    (config, plan, layer): (&DecoderConfig, &DecoderPlan, usize),
    (experts, names): (MoePlan, BesideNorms),
    weights: &mut Weights<'_>,
    SublayerNorms { before, after }: SublayerNorms,
) -> Result<MlpBesideExperts, ModelError> {
    let name = format!("model.layers.{layer}");
    let mut norm =
        |part: &str| Normalization::load(weights, &format!("{name}.{part}"), config.hidden_size, plan.norm);
    let (mlp_after, experts_after) = (norm(names.mlp_after)?, norm(names.experts_after)?);
    let experts_before = norm(names.experts_before)?;
    let what = "no normalization behind them and the network beside";
    let after = after.ok_or(ModelError::UnsupportedExperts { what })?;
    let mlp = load_mlp(config, plan, layer, (&mut *weights, SublayerNorms { before, after: None }))?;
    let sizes = (experts, config.hidden_size, plan.gate);
    let experts = Moe::load(weights, &name, sizes, Some(experts_before))?;
    let backend = weights.backend();
    Ok(MlpBesideExperts { mlp, mlp_after, experts, experts_after, after, backend })
}
