//! `smollm3`: a Llama in which every fourth layer does not rotate.

use serde_json::json;

use super::{
    Blueprint, RopeFactors, effects,
    layout::{self, ATTENTION, FEED_FORWARD, NORMS},
    rotation,
    sizes::{Sizes, Source},
};
use crate::gguf::GgufError;

/// llama.cpp has no setting for it.
const NO_ROPE_INTERVAL: u64 = 4;

pub(super) fn describe(source: &Source<'_>, factors: &RopeFactors) -> Result<Blueprint, GgufError> {
    effects::without_caps(source)?;
    let sizes = Sizes::read(source)?.whole_heads()?;
    let layer = layout::interleaved(&[NORMS, ATTENTION, FEED_FORWARD].concat());
    let rope = rotation::scaling(source, &sizes, factors)?;
    // 1 stands for a layer that rotates.
    let rotates: Vec<u8> =
        (1..=sizes.layers).map(|layer| u8::from(!layer.is_multiple_of(NO_ROPE_INTERVAL))).collect();
    let config = vec![
        ("hidden_act", json!("silu")),
        ("no_rope_layers", json!(rotates)),
        ("no_rope_layer_interval", json!(NO_ROPE_INTERVAL)),
    ];
    Ok(Blueprint { model_type: "smollm3", class: "SmolLM3ForCausalLM", sizes, layer, rope, config })
}
