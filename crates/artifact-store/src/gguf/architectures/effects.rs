//! Settings that would change the answers and that none of the architectures here has.

use super::sizes::Source;
use crate::gguf::{GgufError, metadata::Value};

/// Settings, and the value with which they change nothing; `None`: they change something whenever they are there.
const EFFECTS: [(&str, Option<f64>); 14] = [
    ("attention.clamp_kqv", Some(0.0)),
    ("attention.max_alibi_bias", Some(0.0)),
    ("attention.scale", Some(0.0)),
    ("attention.temperature_scale", Some(0.0)),
    ("embedding_scale", Some(0.0)),
    ("residual_scale", Some(0.0)),
    ("logit_scale", Some(0.0)),
    ("expert_shared_count", Some(0.0)),
    ("expert_group_count", Some(0.0)),
    ("expert_weights_scale", Some(1.0)),
    ("leading_dense_block_count", Some(0.0)),
    ("rope.scaling.yarn_ext_factor", Some(1.0)),
    ("rope.scaling.yarn_log_multiplier", Some(0.0)),
    ("attention.kv_lora_rank", None),
];

/// # Errors
/// A setting that changes something, by its name.
pub(super) fn check(source: &Source<'_>) -> Result<(), GgufError> {
    for (setting, neutral) in EFFECTS {
        let key = source.key(setting);
        let number = source.metadata().get(&key, |value| match value {
            Value::Float(number) => Some(*number),
            other => other.as_unsigned().map(|number| number as f64),
        })?;
        // 0 means "not set" for scales, and 1 changes nothing.
        let changes = |number: f64| {
            neutral.is_none_or(|neutral| number != neutral) && !(setting.ends_with("scale") && number == 1.0)
        };
        if let Some(number) = number.filter(|number| changes(*number)) {
            return Err(refused(&key, &number.to_string()));
        }
    }
    let causal = source.key("attention.causal");
    match source.metadata().boolean(&causal)? {
        Some(false) => Err(refused(&causal, "false")),
        _ => Ok(()),
    }
}

/// # Errors
/// A cap of logits, which only some architectures have.
pub(super) fn without_caps(source: &Source<'_>) -> Result<(), GgufError> {
    for setting in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(cap) = source.positive(setting)? {
            return Err(refused(&source.key(setting), &cap.to_string()));
        }
    }
    Ok(())
}

fn refused(key: &str, value: &str) -> GgufError {
    GgufError::Unsupported(format!(
        "its metadata says `{key}` = {value}, which cannot be imported; import the original safetensors folder instead"
    ))
}
