//! The architectures: one file each, built from [`layers`](super::layers) alone.

mod cohere;
mod cohere2;
mod ernie4_5;
mod gemma2;
mod gemma3;
mod glm4;
mod granite;
mod lfm2;
mod llama;
mod ministral3;
mod mistral;
mod mistral3;
mod mixtral;
mod olmo2;
mod olmo3;
mod olmoe;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod qwen3_next;
mod seed_oss;
mod smollm3;

use crate::model::layers::{Architecture, Defaults, ModelError, Settings, Weights};

/// Builds a model from its `config.json`, taking from the weights what it asks for.
pub(super) type Load = fn(Settings<'_>, &mut Weights<'_>) -> Result<Box<dyn Architecture>, ModelError>;

/// What a worker knows of a `model_type`.
pub(super) struct Entry {
    pub(super) model_type: &'static str,
    pub(super) load: Load,
    /// What its configuration need not say.
    pub(super) defaults: Defaults,
}

/// Every `model_type` that a worker runs. `docs/add-a-model.md` describes what a new one takes.
pub(super) const REGISTRY: &[Entry] = &[
    Entry::new("cohere", cohere::load),
    Entry::new("cohere2", cohere2::load),
    Entry::new("ernie4_5", ernie4_5::load),
    Entry::new("gemma2", gemma2::load),
    Entry::new("gemma3", gemma3::load_nested).with_defaults(gemma3::DEFAULTS),
    Entry::new("gemma3_text", gemma3::load).with_defaults(gemma3::DEFAULTS),
    Entry::new("glm4", glm4::load),
    Entry::new("granite", granite::load),
    Entry::new("iquestcoder", llama::load),
    Entry::new("lfm2", lfm2::load).with_defaults(lfm2::DEFAULTS),
    Entry::new("llama", llama::load),
    Entry::new("ministral3", ministral3::load),
    Entry::new("mistral", mistral::load),
    Entry::new("mistral3", mistral3::load),
    Entry::new("mixtral", mixtral::load),
    Entry::new("olmo2", olmo2::load),
    Entry::new("olmo3", olmo3::load),
    Entry::new("olmoe", olmoe::load),
    Entry::new("phi3", phi3::load),
    Entry::new("qwen2", qwen2::load),
    Entry::new("qwen3", qwen3::load),
    Entry::new("qwen3_5", qwen3_5::load).with_defaults(qwen3_next::DEFAULTS),
    Entry::new("qwen3_5_moe", qwen3_5::load).with_defaults(qwen3_next::DEFAULTS),
    Entry::new("qwen3_moe", qwen3_moe::load),
    Entry::new("qwen3_next", qwen3_next::load).with_defaults(qwen3_next::DEFAULTS),
    Entry::new("seed_oss", seed_oss::load),
    Entry::new("smollm3", smollm3::load),
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
            .map(|entry| format!("`{}`", entry.model_type))
            .collect::<Vec<_>>()
            .join(", "),
    })
}
