//! `llama`: Llama 2 and 3, Mistral, SmolLM 2 and others of the same build; with experts, Mixtral.

use serde_json::{Value, json};

use super::{
    Blueprint, RopeFactors, effects,
    layout::{self, ATTENTION, FEED_FORWARD, FEED_FORWARD_BIASES, NORMS, OUTPUT_BIAS, QKV_BIASES},
    rotation,
    sizes::{Sizes, Source},
};
use crate::gguf::GgufError;

/// Of Mixtral's.
const EXPERTS: [&str; 4] = [
    "block_sparse_moe.gate",
    "block_sparse_moe.switch_mlp.gate_proj",
    "block_sparse_moe.switch_mlp.up_proj",
    "block_sparse_moe.switch_mlp.down_proj",
];

pub(super) fn describe(source: &Source<'_>, factors: &RopeFactors) -> Result<Blueprint, GgufError> {
    effects::without_caps(source)?;
    let sizes = Sizes::read(source)?.whole_heads()?;
    let rope = rotation::scaling(source, &sizes, factors)?;
    let attention = [NORMS, ATTENTION].concat();
    if source.metadata().unsigned(&source.key("expert_count"))?.is_some_and(|count| count > 0) {
        let sizes = sizes.with_experts(source)?;
        let mut config = window(source)?;
        config.extend(sizes.experts.iter().flat_map(|experts| {
            [("num_local_experts", json!(experts.count)), ("num_experts_per_tok", json!(experts.chosen))]
        }));
        let layer = layout::interleaved(&[&attention[..], &layout::experts(EXPERTS)].concat());
        let class = "MixtralForCausalLM";
        return Ok(Blueprint { model_type: "mixtral", class, sizes, layer, rope, config });
    }
    let biases = layout::optional(&[QKV_BIASES, OUTPUT_BIAS, FEED_FORWARD_BIASES].concat());
    let layer = layout::interleaved(&[&attention[..], FEED_FORWARD, &biases].concat());
    let mut config = window(source)?;
    let (model_type, class) =
        if config.is_empty() { ("llama", "LlamaForCausalLM") } else { ("mistral", "MistralForCausalLM") };
    config.extend([
        ("hidden_act", json!("silu")),
        ("rope_traditional", json!(false)),
        ("attention_bias", json!(source.has("blk.0.attn_q.bias"))),
        ("mlp_bias", json!(source.has("blk.0.ffn_up.bias"))),
    ]);
    Ok(Blueprint { model_type, class, sizes, layer, rope, config })
}

/// The window of Mistral's first version, if the file says that there is one.
fn window(source: &Source<'_>) -> Result<Vec<(&'static str, Value)>, GgufError> {
    Ok(source.window()?.map(|window| ("sliding_window", json!(window))).into_iter().collect())
}
