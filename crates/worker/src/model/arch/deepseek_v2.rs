//! `model_type` "deepseek_v2": DeepSeek V2 and its Lite: like V3, but softmax of all experts weighs, and a group is as good as
//! its best expert.

use super::deepseek_v3::{checked, chosen, groups, latent_plan, only, with_experts};
use crate::model::layers::{
    Architecture, DecoderConfig, Defaults, ModelError, RoutingRule, Settings, Weights,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("moe_intermediate_size", 1407.0),
    ("n_shared_experts", 2.0),
    ("n_routed_experts", 64.0),
    ("kv_lora_rank", 512.0),
    ("q_lora_rank", 1536.0),
    ("qk_rope_head_dim", 64.0),
    ("qk_nope_head_dim", 128.0),
    ("v_head_dim", 128.0),
];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &[])?;
    let rule = |experts| Ok((softmax_rule(config, experts)?, None));
    with_experts(config, &decoder, latent_plan(config, &decoder)?, &rule)?.load(decoder, weights)
}

/// Softmax of all; no weight is changed so that they add up to 1.
fn softmax_rule(config: Settings<'_>, experts: i32) -> Result<RoutingRule, ModelError> {
    only(config, "scoring_func", &["softmax"])?;
    only(config, "topk_method", &["greedy", "gready", "group_limited_greedy"])?;
    if config.flag("norm_topk_prob")? == Some(true) {
        return config.refuse("norm_topk_prob", true);
    }
    let in_groups = config.text("topk_method")? == Some("group_limited_greedy");
    let rule = RoutingRule {
        groups: if in_groups { groups(config, experts, 1)? } else { None },
        factor: config.number("routed_scaling_factor", 1e-6, 1e6)?.unwrap_or(1.0) as f32,
        ..RoutingRule::softmax(chosen(config, experts)?, false)
    };
    checked(config, rule, experts)
}
