//! The architectures: one file each, built from [`layers`](super::layers) alone.

mod llama;

use crate::model::layers::{Architecture, ModelError, Settings, Weights};

/// Builds a model from its `config.json`, taking from the weights what it asks for.
type Load = fn(Settings<'_>, &mut Weights<'_>) -> Result<Box<dyn Architecture>, ModelError>;

/// Every `model_type` that a worker runs. `docs/add-a-model.md` describes what a new one takes.
pub(super) const REGISTRY: &[(&str, Load)] = &[("llama", llama::load)];
