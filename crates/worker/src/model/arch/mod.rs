//! The architectures: one file each, built from [`layers`](super::layers) alone.

mod llama;

use super::{Architecture, ModelError, weights::Weights};

/// Builds a model from its `config.json`, taking from the weights what it asks for.
type Load = fn(&serde_json::Value, &mut Weights<'_>) -> Result<Box<dyn Architecture>, ModelError>;

/// Every `model_type` that a worker runs. `docs/add-a-model.md` describes what a new one takes.
pub(super) const REGISTRY: &[(&str, Load)] = &[("llama", llama::load)];
