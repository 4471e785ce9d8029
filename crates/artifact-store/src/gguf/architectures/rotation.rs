//! What a file says of a stretched context, as `rope_scaling`.

use serde_json::{Value, json};

use super::sizes::{MAX_CONTEXT, Sizes, Source};
use crate::gguf::{
    GgufError, RopeFactors,
    metadata::required,
    rope::{self, LONG_FACTORS},
};

/// `rope_scaling`, and whether it comes from a tensor.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RopeScaling {
    pub(super) value: Option<Value>,
    pub(super) recovered: bool,
}

/// # Errors
/// A scaling that is not known, incomplete, or said twice.
pub(super) fn scaling(
    source: &Source<'_>,
    sizes: &Sizes,
    factors: &RopeFactors,
) -> Result<RopeScaling, GgufError> {
    let kind = source.metadata().text(&source.key("rope.scaling.type"))?;
    if kind == Some("longrope") || factors.long.is_some() {
        let value = long_rope(source, sizes, factors)?;
        return Ok(RopeScaling { value: Some(value), recovered: true });
    }
    let said = from_metadata(source, kind)?;
    let recovered = match &factors.llama3 {
        Some(factors) => rope::scaling(factors, sizes.rope_base, sizes.head_dim)?,
        None => None,
    };
    match (said, recovered) {
        (Some(_), Some(_)) => Err(GgufError::Unsupported(
            "it scales its rotary frequencies twice, by metadata and by a tensor".to_owned(),
        )),
        (None, Some(value)) => Ok(RopeScaling { value: Some(value), recovered: true }),
        (value, None) => Ok(RopeScaling { value, recovered: false }),
    }
}

fn from_metadata(source: &Source<'_>, kind: Option<&str>) -> Result<Option<Value>, GgufError> {
    let setting = "rope.scaling.factor";
    // Older files have another name for it, and where the type is not said, it is linear.
    let factor = match source.positive(setting)? {
        None => source.positive("rope.scale_linear")?,
        factor => factor,
    };
    let needed = || required(factor, &source.key(setting));
    match kind {
        Some("none") => Ok(None),
        None => {
            let factor = factor.filter(|factor| *factor != 1.0);
            Ok(factor.map(|factor| json!({ "rope_type": "linear", "factor": factor })))
        }
        Some("linear") => Ok(Some(json!({ "rope_type": "linear", "factor": needed()? }))),
        Some("yarn") => yarn(source, needed()?).map(Some),
        Some(other) => {
            Err(GgufError::Unsupported(format!("its rotary scaling `{other}` is not one this program knows")))
        }
    }
}

fn yarn(source: &Source<'_>, factor: f64) -> Result<Value, GgufError> {
    let mut yarn = json!({
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": source.required_size("rope.scaling.original_context_length", MAX_CONTEXT)?,
    });
    for (setting, name) in [
        ("rope.scaling.yarn_attn_factor", "attention_factor"),
        ("rope.scaling.yarn_beta_fast", "beta_fast"),
        ("rope.scaling.yarn_beta_slow", "beta_slow"),
    ] {
        if let Some(value) = source.positive(setting)? {
            yarn[name] = value.into();
        }
    }
    Ok(yarn)
}

/// Phi's: a factor for each pair, of which there is a list for long prompts and one for short ones.
fn long_rope(source: &Source<'_>, sizes: &Sizes, factors: &RopeFactors) -> Result<Value, GgufError> {
    let list = |name: &str, factors: &Option<Vec<f32>>| {
        let missing = || GgufError::Damaged(format!("tensor `{name}` is missing"));
        let factors = factors.as_deref().ok_or_else(missing)?;
        let sound = |factor: &f32| factor.is_finite() && *factor > 0.0;
        if factors.len() as u64 != sizes.rotated / 2 || !factors.iter().all(sound) {
            return Err(GgufError::Damaged(format!(
                "`{name}` does not have a positive number for each pair"
            )));
        }
        Ok(factors.iter().map(|factor| decimal(*factor)).collect::<Vec<f64>>())
    };
    let mut scaling = json!({
        "rope_type": "longrope",
        "long_factor": list(LONG_FACTORS, &factors.long)?,
        "short_factor": list(rope::SHORT_FACTORS, &factors.short)?,
        "original_max_position_embeddings": source.required_size("rope.scaling.original_context_length", MAX_CONTEXT)?,
    });
    if let Some(gain) = source.positive("rope.scaling.attn_factor")? {
        scaling["attention_factor"] = gain.into();
    }
    Ok(scaling)
}

/// The double nearest to the number's shortest decimal form, which is what the original configuration had.
fn decimal(factor: f32) -> f64 {
    factor.to_string().parse().unwrap_or(f64::from(factor))
}
