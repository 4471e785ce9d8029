//! `qwen2`, `qwen3` and `qwen3moe`.

use serde_json::json;

use super::{
    Blueprint, RopeFactors, effects,
    layout::{self, ATTENTION, FEED_FORWARD, NORMS, QK_NORMS, QKV_BIASES},
    rotation,
    sizes::{Sizes, Source},
};
use crate::gguf::GgufError;

/// Of the version with experts.
const EXPERTS: [&str; 4] =
    ["mlp.gate", "mlp.switch_mlp.gate_proj", "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"];

pub(super) fn describe_2(source: &Source<'_>, factors: &RopeFactors) -> Result<Blueprint, GgufError> {
    let layer = [NORMS, ATTENTION, QKV_BIASES, FEED_FORWARD].concat();
    let sizes = sizes(source)?;
    let rope = rotation::scaling(source, &sizes, factors)?;
    let config = vec![("hidden_act", json!("silu")), ("use_sliding_window", json!(false))];
    Ok(Blueprint { model_type: "qwen2", class: "Qwen2ForCausalLM", sizes, layer, rope, config })
}

pub(super) fn describe_3(source: &Source<'_>, factors: &RopeFactors) -> Result<Blueprint, GgufError> {
    let layer = [NORMS, ATTENTION, QK_NORMS, FEED_FORWARD].concat();
    let blueprint = describe_2(source, factors)?;
    Ok(Blueprint { model_type: "qwen3", class: "Qwen3ForCausalLM", layer, ..blueprint })
}

pub(super) fn describe_3_moe(source: &Source<'_>, factors: &RopeFactors) -> Result<Blueprint, GgufError> {
    let mut blueprint = describe_3(source, factors)?;
    blueprint.sizes = blueprint.sizes.with_experts(source)?;
    blueprint.layer = [NORMS, ATTENTION, QK_NORMS, &layout::experts(EXPERTS)].concat();
    blueprint.config.extend(blueprint.sizes.experts.iter().flat_map(|experts| {
        [
            ("num_experts", json!(experts.count)),
            ("num_experts_per_tok", json!(experts.chosen)),
            ("moe_intermediate_size", json!(experts.intermediate)),
            // llama.cpp divides by the sum for this architecture.
            ("norm_topk_prob", json!(true)),
        ]
    }));
    Ok(Blueprint { model_type: "qwen3_moe", class: "Qwen3MoeForCausalLM", ..blueprint })
}

fn sizes(source: &Source<'_>) -> Result<Sizes, GgufError> {
    effects::without_caps(source)?;
    Sizes::read(source)?.whole_heads()
}
