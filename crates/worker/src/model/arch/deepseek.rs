//! `model_type` "deepseek": DeepSeek MoE: a Llama with experts, of which one is every token's.

use super::deepseek_v3::{chosen, only, with_experts};
use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, ModelError, RoutingRule, Settings, Weights,
};

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &[])?;
    only(config, "scoring_func", &["softmax"])?;
    if config.flag("norm_topk_prob")? == Some(true) {
        return config.refuse("norm_topk_prob", true);
    }
    let rule = |experts| Ok((RoutingRule::softmax(chosen(config, experts)?, false), None));
    with_experts(config, &decoder, DecoderPlan::new(&decoder), &rule)?.load(decoder, weights)
}
