//! The architectures: one file each, built from [`layers`](super::layers) alone.

mod llama;

use crate::model::layers::{Architecture, ModelError, Settings, Weights};

/// Builds a model from its `config.json`, taking from the weights what it asks for.
pub(super) type Load = fn(Settings<'_>, &mut Weights<'_>) -> Result<Box<dyn Architecture>, ModelError>;

/// Every `model_type` that a worker runs. `docs/add-a-model.md` describes what a new one takes.
pub(super) const REGISTRY: &[(&str, Load)] = &[("llama", llama::load)];

/// What builds models of this `model_type`.
///
/// # Errors
/// [`ModelError::UnsupportedType`].
pub(super) fn find(found: Option<&str>) -> Result<Load, ModelError> {
    let load = REGISTRY.iter().find(|(name, _)| Some(*name) == found).map(|(_, load)| *load);
    load.ok_or_else(|| ModelError::UnsupportedType {
        found: found.map(str::to_owned),
        supported: REGISTRY.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    })
}
