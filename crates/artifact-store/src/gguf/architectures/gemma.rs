//! `gemma2` and `gemma3`: four normalizations a layer, and windows in most layers.

use serde_json::{Value, json};

use super::{
    Blueprint, RopeFactors, effects,
    layout::{self, ATTENTION, FEED_FORWARD, Layout, QK_NORMS, norm},
    rotation,
    sizes::{Sizes, Source},
};
use crate::gguf::GgufError;

const NORMS: &[Layout] = &[
    norm("attn_norm", "input_layernorm"),
    norm("post_attention_norm", "post_attention_layernorm"),
    norm("ffn_norm", "pre_feedforward_layernorm"),
    norm("post_ffw_norm", "post_feedforward_layernorm"),
];

/// How many layers the 27B models have. They scale queries by `hidden_size / heads` instead of the head's size, which no
/// setting says.
const LAYERS_OF_27B: [u64; 2] = [46, 62];
/// In every group of this many layers, the last one has no window.
const PERIOD_2: u64 = 2;
const PERIOD_3: u64 = 6;
/// Window and caps of Gemma 2 where the metadata has none, as llama.cpp takes them.
const WINDOW_2: u64 = 4096;
const ATTENTION_CAP: f64 = 50.0;
const LOGIT_CAP: f64 = 30.0;
/// Base of the rotation in layers with a window of Gemma 3, which older files do not have.
const LOCAL_ROPE_BASE: f64 = 10_000.0;

pub(super) fn describe_2(source: &Source<'_>, factors: &RopeFactors) -> Result<Blueprint, GgufError> {
    let sizes = Sizes::read(source)?.whole_heads()?;
    let rope = rotation::scaling(source, &sizes, factors)?;
    let cap = |setting: &str, default: f64| Ok::<_, GgufError>(source.positive(setting)?.unwrap_or(default));
    let mut config = common(&sizes);
    config.extend([
        ("attn_logit_softcapping", json!(cap("attn_logit_softcapping", ATTENTION_CAP)?)),
        ("final_logit_softcapping", json!(cap("final_logit_softcapping", LOGIT_CAP)?)),
        ("sliding_window", json!(source.window()?.unwrap_or(WINDOW_2))),
        ("layer_types", json!(source.layer_types(sizes.layers, PERIOD_2)?)),
    ]);
    let layer = [layout::plus_one(NORMS), [ATTENTION, FEED_FORWARD].concat()].concat();
    Ok(Blueprint { model_type: "gemma2", class: "Gemma2ForCausalLM", sizes, layer, rope, config })
}

pub(super) fn describe_3(source: &Source<'_>, factors: &RopeFactors) -> Result<Blueprint, GgufError> {
    effects::without_caps(source)?;
    let sizes = Sizes::read(source)?.whole_heads()?;
    let rope = rotation::scaling(source, &sizes, factors)?;
    let mut config = common(&sizes);
    let local = source.positive("rope.freq_base_swa")?.unwrap_or(LOCAL_ROPE_BASE);
    config.extend([
        ("rope_local_base_freq", json!(local)),
        ("layer_types", json!(source.layer_types(sizes.layers, PERIOD_3)?)),
    ]);
    config.extend(source.window()?.map(|window| ("sliding_window", json!(window))));
    let norms = layout::plus_one(&[NORMS, QK_NORMS].concat());
    let layer = [norms, [ATTENTION, FEED_FORWARD].concat()].concat();
    Ok(Blueprint { model_type: "gemma3_text", class: "Gemma3ForCausalLM", sizes, layer, rope, config })
}

fn common(sizes: &Sizes) -> Vec<(&'static str, Value)> {
    let is_27b = LAYERS_OF_27B.contains(&sizes.layers);
    let scalar = if is_27b { sizes.hidden / sizes.heads } else { sizes.head_dim };
    vec![("hidden_activation", json!("gelu_pytorch_tanh")), ("query_pre_attn_scalar", json!(scalar))]
}
