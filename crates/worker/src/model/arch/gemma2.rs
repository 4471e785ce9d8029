//! `model_type` "gemma2": every other layer sees a window; scores of attention and logits are capped.

use super::gemma3::{BLOCK_NORMS, query_scale};
use crate::model::layers::{
    Architecture, DecoderConfig, DecoderPlan, Defaults, ModelError, NormParams, Settings, Weights,
    WindowRule, gelu_gate, layer_windows,
};

const COVERED: [&str; 7] = [
    "hidden_act",
    "hidden_activation",
    "sliding_window",
    "layer_types",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
];

/// What transformers assumes where the configuration does not say it.
pub(super) const DEFAULTS: Defaults = &[
    ("num_attention_heads", 8.0),
    ("num_key_value_heads", 4.0),
    ("head_dim", 256.0),
    ("max_position_embeddings", 8192.0),
    ("sliding_window", 4096.0),
    ("query_pre_attn_scalar", 256.0),
];

/// Checks the configuration and takes the weights that it asks for.
pub(super) fn load(
    config: Settings<'_>,
    weights: &mut Weights<'_>,
) -> Result<Box<dyn Architecture>, ModelError> {
    let decoder = DecoderConfig::parse(config, &COVERED)?;
    let rule = WindowRule { on: true, slides: &|layer| layer % 2 == 0 };
    let windows = layer_windows(config, decoder.layers(), &rule)?;
    let mut plan = DecoderPlan {
        norm: NormParams::rms_plus_one(decoder.rms_norm_eps),
        block_norms: BLOCK_NORMS,
        gate: gelu_gate(config)?,
        embedding_factor: (decoder.hidden_size as f32).sqrt(),
        logit_cap: cap(config, "final_logit_softcapping", 30.0)?,
        ..DecoderPlan::new(&decoder)
    }
    .with_windows(windows);
    let (scale, soft_cap) = (query_scale(config)?, cap(config, "attn_logit_softcapping", 50.0)?);
    for (_, spec) in plan.layers() {
        (spec.scale, spec.soft_cap) = (scale, soft_cap);
    }
    plan.load(decoder, weights)
}

/// There is one unless the configuration says that there is none.
fn cap(config: Settings<'_>, name: &str, default: f32) -> Result<Option<f32>, ModelError> {
    let cap = config.number(name, 1e-3, 1e6)?.map(|cap| cap as f32);
    Ok(cap.or((!config.mentions(name)).then_some(default)))
}
