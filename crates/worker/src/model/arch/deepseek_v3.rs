//! `model_type` "deepseek_v3": DeepSeek V3 and R1, and "kimi_k2": Kimi K2. Latent attention; experts in groups, and one that
//! every token goes through.

use std::rc::Rc;

use super::qwen3_moe::NAMES;
use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, Groups, LatentPlan, ModelError, MoePlan, RopeConfig,
    RoutingRule, Scores, Settings, SharedExpert, Weights, load_rope,
};

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("max_position_embeddings", 4096.0),
    ("moe_intermediate_size", 2048.0),
    ("n_shared_experts", 1.0),
    ("n_routed_experts", 256.0),
    ("num_experts_per_tok", 8.0),
    ("n_group", 8.0),
    ("topk_group", 4.0),
    ("norm_topk_prob", 1.0),
    ("routed_scaling_factor", 2.5),
    ("first_k_dense_replace", 3.0),
    ("kv_lora_rank", 512.0),
    ("q_lora_rank", 1536.0),
    ("qk_rope_head_dim", 64.0),
    ("qk_nope_head_dim", 128.0),
    ("v_head_dim", 128.0),
];

/// Most experts of a layer.
const MAX_EXPERTS: i32 = 1 << 12;

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &[])?;
    let rule = |experts| sigmoid_rule(config, experts);
    let plan = with_experts(config, &decoder, latent_plan(config, &decoder)?, &rule)?;
    drop_predictors(weights, &decoder);
    plan.load(decoder, weights)
}

/// Latent attention in all layers.
pub(super) fn latent_plan(config: Settings<'_>, decoder: &DecoderConfig) -> Result<DecoderPlan, ModelError> {
    let size =
        |setting: &'static str| config.whole(setting, 1, 1024)?.ok_or(ModelError::MissingSetting { setting });
    let latent = LatentPlan {
        query_rank: config.whole("q_lora_rank", 1, 1 << 20)?,
        rank: size("kv_lora_rank")?,
        rotated: size("qk_rope_head_dim")?,
        plain: size("qk_nope_head_dim")?,
        value: size("v_head_dim")?,
        bias: decoder.attention_bias,
    };
    let traditional = config.flag("rope_interleave")?.unwrap_or(true);
    let rope = RopeConfig { traditional, ..decoder.rope.clone() };
    rope.check(config, latent.rotated)?;
    let rope = load_rope(&rope, latent.rotated, decoder.max_position_embeddings);
    let width = f64::from(latent.plain + latent.rotated);
    let scale = (decoder.rope.scaling.score_factor() / width.sqrt()) as f32;
    let mut plan = DecoderPlan { latent: Some(latent), ..DecoderPlan::new(decoder) };
    for (_, spec) in plan.layers() {
        (spec.rope, spec.scale) = (Some(Rc::clone(&rope)), scale);
    }
    Ok(plan)
}

/// The plan with experts, if there are any, in the layers that have some. `rule` says how a token chooses from so many.
pub(super) fn with_experts(
    config: Settings<'_>,
    decoder: &DecoderConfig,
    plan: DecoderPlan,
    rule: &dyn Fn(i32) -> Result<(RoutingRule, Option<&'static str>), ModelError>,
) -> Result<DecoderPlan, ModelError> {
    let Some(count) = config.whole("n_routed_experts", 1, MAX_EXPERTS)? else { return Ok(plan) };
    let inner = config.whole("moe_intermediate_size", 1, 1 << 22)?;
    let inner = inner.ok_or(ModelError::MissingSetting { setting: "moe_intermediate_size" })?;
    let shared = config.whole("n_shared_experts", 0, MAX_EXPERTS)?.unwrap_or(0);
    let Some(shared) = inner.checked_mul(shared).filter(|all| *all <= 1 << 22) else {
        return config.refuse("n_shared_experts", shared);
    };
    let (rule, correction) = rule(count)?;
    let experts = MoePlan {
        correction,
        shared: (shared > 0).then_some(SharedExpert {
            name: "mlp.shared_experts",
            gate: None,
            intermediate_size: shared,
        }),
        ..MoePlan::new(NAMES, count, inner, rule)
    };
    let index = |name| Ok::<_, ModelError>(config.whole(name, 0, i32::MAX)?.map(i32::unsigned_abs));
    let first = index("first_k_dense_replace")?.unwrap_or(0) as usize;
    let every = config.whole("moe_layer_freq", 1, i32::MAX)?.unwrap_or(1).unsigned_abs() as usize;
    let sparse = (0..decoder.layers()).map(|layer| layer >= first && layer.is_multiple_of(every)).collect();
    Ok(DecoderPlan { experts: Some(experts), sparse, ..plan })
}

/// Sigmoids, of which corrected ones are compared, in groups; and the name of the correction.
pub(super) fn sigmoid_rule(
    config: Settings<'_>,
    experts: i32,
) -> Result<(RoutingRule, Option<&'static str>), ModelError> {
    only(config, "scoring_func", &["sigmoid"])?;
    only(config, "topk_method", &["noaux_tc"])?;
    let rule = RoutingRule {
        scores: Scores::Sigmoid,
        groups: groups(config, experts, 2)?,
        normalized: config.flag("norm_topk_prob")?.unwrap_or(true),
        factor: config.number("routed_scaling_factor", 1e-6, 1e6)?.unwrap_or(1.0) as f32,
        ..RoutingRule::softmax(chosen(config, experts)?, false)
    };
    checked(config, rule, experts).map(|rule| (rule, Some("mlp.gate.e_score_correction_bias")))
}

/// How many experts a token goes through.
pub(super) fn chosen(config: Settings<'_>, experts: i32) -> Result<i32, ModelError> {
    let chosen = config.whole("num_experts_per_tok", 1, experts)?;
    chosen.ok_or(ModelError::MissingSetting { setting: "num_experts_per_tok" })
}

/// Groups of experts, of which each is as good as so many of its `best` experts.
pub(super) fn groups(config: Settings<'_>, experts: i32, best: i32) -> Result<Option<Groups>, ModelError> {
    let count = config.whole("n_group", 1, experts)?.unwrap_or(1);
    if count == 1 {
        return Ok(None);
    }
    if experts % count != 0 || experts / count < best {
        return config.refuse("n_group", format!("{count}, for {experts} experts"));
    }
    let chosen = config.whole("topk_group", 1, count)?;
    let chosen = chosen.ok_or(ModelError::MissingSetting { setting: "topk_group" })?;
    Ok(Some(Groups { count, chosen, best }))
}

/// The rule, if the groups that are left have as many experts as are chosen.
pub(super) fn checked(
    config: Settings<'_>,
    rule: RoutingRule,
    experts: i32,
) -> Result<RoutingRule, ModelError> {
    match rule.groups {
        Some(groups) if rule.chosen > experts / groups.count * groups.chosen => {
            config.refuse("num_experts_per_tok", format!("{}, more than `topk_group` leaves", rule.chosen))
        }
        _ => Ok(rule),
    }
}

/// Refuses a text that is said and is not one of those that are taken.
pub(super) fn only(config: Settings<'_>, name: &str, taken: &[&str]) -> Result<(), ModelError> {
    match config.text(name)? {
        Some(other) if !taken.contains(&other) => config.refuse(name, other),
        _ => Ok(()),
    }
}

/// Layers behind the last one predict tokens after the next, which is not done here.
pub(super) fn drop_predictors(weights: &mut Weights<'_>, decoder: &DecoderConfig) {
    let behind = format!("model.layers.{}.", decoder.num_hidden_layers);
    weights.ignore(|name| name.starts_with(&behind));
}
