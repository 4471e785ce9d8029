//! `gpt-oss`: experts in all layers, attention with sinks, and a window in every other layer.

use serde_json::json;

use super::{
    Blueprint, RopeFactors, effects,
    layout::{self, ATTENTION, Dim, Layout, OUTPUT_BIAS, QKV_BIASES, bias, norm, weight},
    rotation,
    sizes::{MAX_CONTEXT, Sizes, Source},
};
use crate::gguf::GgufError;

const NORMS: &[Layout] = &[
    norm("attn_norm", "input_layernorm"),
    // Before the experts, as in a Llama, whatever its name says.
    norm("post_attention_norm", "post_attention_layernorm"),
];

const SINKS: &[Layout] = &[Layout { field: "sinks", ..weight("attn_sinks", "self_attn", &[Dim::Heads]) }];

const EXPERTS: [&str; 4] =
    ["mlp.router", "mlp.experts.gate_proj", "mlp.experts.up_proj", "mlp.experts.down_proj"];

const EXPERT_BIASES: &[Layout] = &[
    bias("ffn_gate_inp", EXPERTS[0], &[Dim::Experts]),
    bias("ffn_gate_exps", EXPERTS[1], &[Dim::Experts, Dim::ExpertInner]),
    bias("ffn_up_exps", EXPERTS[2], &[Dim::Experts, Dim::ExpertInner]),
    bias("ffn_down_exps", EXPERTS[3], &[Dim::Experts, Dim::Hidden]),
];

/// Of two layers, the first has a window.
const PERIOD: u64 = 2;

pub(super) fn describe(source: &Source<'_>, factors: &RopeFactors) -> Result<Blueprint, GgufError> {
    effects::without_caps(source)?;
    let sizes = Sizes::read(source)?.whole_heads()?.with_experts(source)?;
    let mut rope = rotation::scaling(source, &sizes, factors)?;
    if let Some(yarn) = rope.value.as_mut().filter(|value| value["rope_type"] == "yarn") {
        // The ends of the ramp are not rounded to whole pairs; GGUF has no setting for it.
        yarn["truncate"] = false.into();
    }
    let mut config = vec![
        ("attention_bias", json!(true)),
        ("sliding_window", json!(source.required_size("attention.sliding_window", MAX_CONTEXT)?)),
        ("layer_types", json!(source.layer_types(sizes.layers, PERIOD)?)),
    ];
    config.extend(sizes.experts.iter().flat_map(|experts| {
        [
            // Its configuration has one inner size, that of an expert.
            ("intermediate_size", json!(experts.intermediate)),
            ("num_local_experts", json!(experts.count)),
            ("num_experts_per_tok", json!(experts.chosen)),
        ]
    }));
    let layer =
        [NORMS, ATTENTION, QKV_BIASES, OUTPUT_BIAS, SINKS, &layout::experts(EXPERTS), EXPERT_BIASES].concat();
    Ok(Blueprint { model_type: "gpt_oss", class: "GptOssForCausalLM", sizes, layer, rope, config })
}
