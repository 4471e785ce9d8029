//! The architectures: one file each, built from [`layers`](super::layers) alone.

mod bert;
mod cohere;
mod cohere2;
mod deepseek;
mod deepseek_v2;
mod deepseek_v3;
mod ernie4_5;
mod gemma2;
mod gemma3;
mod gemma4;
mod glm4;
mod glm4_moe;
mod gpt_oss;
mod granite;
mod lfm2;
mod lfm2_moe;
mod llama;
mod llama4;
mod mistral;
mod mistral3;
mod mixtral;
mod modernbert;
mod olmo2;
mod olmo3;
mod olmoe;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod qwen3_next;
mod roberta;
mod seed_oss;
mod smollm3;

use crate::model::layers::{Architecture, Defaults, Encoder, ModelError, Settings, Weights};

/// Builds a model from its `config.json`, taking from the weights what it asks for.
pub(super) type Load = fn(Settings<'_>, &mut Weights<'_>) -> Result<Box<dyn Architecture>, ModelError>;

/// What a worker knows of a `model_type`.
pub(super) struct Entry {
    pub(super) model_type: &'static str,
    pub(super) load: Load,
    /// What its configuration need not say.
    pub(super) defaults: Defaults,
}

/// The same of a model that embeds text.
pub(super) type LoadEncoder = fn(Settings<'_>, &mut Weights<'_>) -> Result<Box<dyn Encoder>, ModelError>;

/// What a worker knows of a `model_type` that embeds text.
pub(super) struct EncoderEntry {
    pub(super) model_type: &'static str,
    pub(super) load: LoadEncoder,
    /// What its configuration need not say.
    pub(super) defaults: Defaults,
}

/// Every `model_type` that generates text. `docs/add-a-model.md` describes what a new one takes.
pub(super) const REGISTRY: &[Entry] = &[
    Entry::new("cohere", cohere::load).with_defaults(cohere::DEFAULTS),
    Entry::new("cohere2", cohere2::load).with_defaults(cohere2::DEFAULTS),
    Entry::new("deepseek", deepseek::load),
    Entry::new("deepseek_v2", deepseek_v2::load).with_defaults(deepseek_v2::DEFAULTS),
    Entry::new("deepseek_v3", deepseek_v3::load).with_defaults(deepseek_v3::DEFAULTS),
    Entry::new("ernie4_5", ernie4_5::load).with_defaults(ernie4_5::DEFAULTS),
    Entry::new("gemma2", gemma2::load).with_defaults(gemma2::DEFAULTS),
    Entry::new("gemma3", gemma3::load_nested).with_defaults(gemma3::DEFAULTS),
    Entry::new("gemma3_text", gemma3::load).with_defaults(gemma3::DEFAULTS),
    Entry::new("gemma4", gemma4::load_nested).with_defaults(gemma4::DEFAULTS),
    Entry::new("gemma4_text", gemma4::load).with_defaults(gemma4::DEFAULTS),
    Entry::new("glm4", glm4::load).with_defaults(glm4::DEFAULTS),
    Entry::new("glm4_moe", glm4_moe::load).with_defaults(glm4_moe::DEFAULTS),
    Entry::new("gpt_oss", gpt_oss::load).with_defaults(gpt_oss::DEFAULTS),
    Entry::new("granite", granite::load),
    Entry::new("iquestcoder", llama::load),
    Entry::new("joyai_llm_flash", deepseek_v3::load).with_defaults(deepseek_v3::DEFAULTS),
    Entry::new("kimi_k2", deepseek_v3::load).with_defaults(deepseek_v3::DEFAULTS),
    Entry::new("lfm2", lfm2::load).with_defaults(lfm2::DEFAULTS),
    Entry::new("lfm2_moe", lfm2_moe::load).with_defaults(lfm2_moe::DEFAULTS),
    Entry::new("llama", llama::load),
    Entry::new("llama4", llama4::load).with_defaults(llama4::DEFAULTS),
    Entry::new("ministral3", llama::load).with_defaults(mistral3::MINISTRAL),
    Entry::new("mistral", mistral::load).with_defaults(mistral::DEFAULTS),
    Entry::new("mistral3", mistral3::load).with_defaults(mistral::DEFAULTS),
    Entry::new("mixtral", mixtral::load).with_defaults(mixtral::DEFAULTS),
    Entry::new("olmo2", olmo2::load).with_defaults(olmo2::DEFAULTS),
    Entry::new("olmo3", olmo3::load).with_defaults(olmo3::DEFAULTS),
    Entry::new("olmoe", olmoe::load).with_defaults(olmoe::DEFAULTS),
    Entry::new("phi3", phi3::load).with_defaults(phi3::DEFAULTS),
    Entry::new("qwen2", qwen2::load).with_defaults(qwen2::DEFAULTS),
    Entry::new("qwen3", qwen3::load).with_defaults(qwen3::DEFAULTS),
    Entry::new("qwen3_5", qwen3_5::load).with_defaults(qwen3_next::DEFAULTS),
    Entry::new("qwen3_5_moe", qwen3_5::load).with_defaults(qwen3_next::DEFAULTS),
    Entry::new("qwen3_moe", qwen3_moe::load).with_defaults(qwen3_moe::DEFAULTS),
    Entry::new("qwen3_next", qwen3_next::load).with_defaults(qwen3_next::DEFAULTS),
    Entry::new("seed_oss", seed_oss::load).with_defaults(seed_oss::DEFAULTS),
    Entry::new("smollm3", smollm3::load).with_defaults(smollm3::DEFAULTS),
];

/// Every `model_type` that embeds text.
pub(super) const ENCODERS: &[EncoderEntry] = &[
    EncoderEntry { model_type: "bert", load: bert::load, defaults: &[] },
    EncoderEntry { model_type: "modernbert", load: modernbert::load, defaults: modernbert::DEFAULTS },
    EncoderEntry { model_type: "roberta", load: roberta::load, defaults: &[("pad_token_id", 1.0)] },
    EncoderEntry { model_type: "xlm-roberta", load: roberta::load, defaults: &[("pad_token_id", 1.0)] },
];

impl Entry {
    const fn new(model_type: &'static str, load: Load) -> Self {
        Self { model_type, load, defaults: &[] }
    }

    const fn with_defaults(self, defaults: Defaults) -> Self {
        Self { defaults, ..self }
    }
}

/// What is known of this `model_type`.
///
/// # Errors
/// [`ModelError::UnsupportedType`].
pub(super) fn find(found: Option<&str>) -> Result<&'static Entry, ModelError> {
    let entry = REGISTRY.iter().find(|entry| Some(entry.model_type) == found);
    entry.ok_or_else(|| ModelError::UnsupportedType {
        found: found.map(str::to_owned),
        supported: REGISTRY
            .iter()
            .map(|entry| entry.model_type)
            .chain(ENCODERS.iter().map(|entry| entry.model_type))
            .map(|model_type| format!("`{model_type}`"))
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// The same of one that embeds text; `None` if it is none.
pub(super) fn find_encoder(found: Option<&str>) -> Option<&'static EncoderEntry> {
    ENCODERS.iter().find(|entry| Some(entry.model_type) == found)
}

#[cfg(test)]
mod tests;
