//! What can go wrong with a model.

use std::ops::Range;

use artifact_store::StoreError;
use mlx_ext::MapError;
use mlx_rs::error::Exception;
use thiserror::Error;

use super::KvError;

/// Why a model could not be loaded, or a step not be run.
#[derive(Debug, Error)]
pub enum ModelError {
    /// No file here implements this architecture.
    #[error(
        "the model's config.json says `model_type` {}, an architecture that this worker does not run: it runs {supported}; the README says where to ask for another",
        .found.as_deref().map_or("nothing".to_owned(), |found| format!("`{found}`")),
    )]
    UnsupportedType {
        /// `model_type` of the configuration.
        found: Option<String>,
        /// Those that there are files for.
        supported: String,
    },
    /// The model generates text, and was to embed it.
    #[error(
        "the model's config.json says `model_type` {}, which is not that of a model that embeds text",
        .found.as_deref().map_or("nothing".to_owned(), |found| format!("`{found}`")),
    )]
    NotAnEncoder {
        /// `model_type` of the configuration.
        found: Option<String>,
    },
    /// A setting is missing.
    #[error("the model's config.json does not say `{setting}`")]
    MissingSetting {
        /// Name of the setting.
        setting: &'static str,
    },
    /// A setting has the wrong type, or is out of range.
    #[error("the model's config.json says `{setting}` = {value}; this worker takes {expected}")]
    BadSetting {
        /// Name of the setting.
        setting: String,
        /// Its value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// A setting has a value that this implementation does not cover.
    #[error("the model's config.json says `{setting}` = {value}, which this worker cannot run")]
    UnsupportedSetting {
        /// Name of the setting.
        setting: String,
        /// Its value.
        value: String,
    },
    /// A layer's attention is of a kind that the kernels can't compute.
    #[error("layer {layer} of the model has {what}, which this worker cannot compute")]
    UnsupportedAttention {
        /// Index of the layer.
        layer: usize,
        /// What is not covered.
        what: &'static str,
    },
    /// Experts that have more than the layers compute.
    #[error("the model has experts with {what}, which this worker cannot compute")]
    UnsupportedExperts {
        /// What is not covered.
        what: &'static str,
    },
    /// The model has nothing to remember tokens with.
    #[error("the model has no layers")]
    NoLayers,
    /// The configuration asks for a tensor that the weights don't have.
    #[error("the weights have no tensor `{name}`, which the model's config.json asks for")]
    MissingTensor {
        /// Name of the tensor.
        name: String,
    },
    /// The weights have tensors that would have no effect.
    #[error("the weights have tensors the model has no place for: {}", .names.join(", "))]
    UnexpectedTensors {
        /// Their names, sorted; the first few.
        names: Vec<String>,
    },
    /// Configuration and weights disagree about how a matrix is stored.
    #[error("tensor `{name}` {found}; the model's config.json says `{setting}` = {value}")]
    WrongPacking {
        /// Name of the tensor.
        name: String,
        /// What it is like.
        found: String,
        /// Name of the setting.
        setting: String,
        /// What it says.
        value: String,
    },
    /// Configuration and weights disagree.
    #[error("tensor `{name}` has shape {found:?}; the model's config.json asks for {expected}")]
    WrongShape {
        /// Name of the tensor.
        name: String,
        /// Its shape.
        found: Vec<u64>,
        /// What it should be.
        expected: String,
    },
    /// The elements are of a type that the model can't compute with.
    #[error("tensor `{name}` holds {found:?}; it has to be {expected}")]
    WrongDtype {
        /// Name of the tensor.
        name: String,
        /// Type of its elements.
        found: artifact_store::Dtype,
        /// Which types would do.
        expected: &'static str,
    },
    /// The artifact's files can't be opened, or are damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or a part of it can't be made an array.
    #[error("cannot load `{what}`")]
    Map {
        /// Name of the file or the tensor.
        what: String,
        /// The reason.
        source: MapError,
    },
    /// There is no memory for keys and values.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A row without tokens.
    #[error("row {row} of the step has no tokens")]
    EmptyRow {
        /// Index of the row.
        row: usize,
    },
    /// Logits after tokens that the row does not have.
    #[error("row {row} of the step wants logits after its tokens {logits:?}; it has {len}")]
    LogitsOutOfRange {
        /// Index of the row.
        row: usize,
        /// Indices of the tokens.
        logits: Range<usize>,
        /// How many tokens the row has.
        len: usize,
    },
    /// A token that the model does not have.
    #[error("row {row} of the step has token {token}; the model's vocabulary has {vocab_size}")]
    TokenOutOfRange {
        /// Index of the row.
        row: usize,
        /// The token.
        token: u32,
        /// How many there are.
        vocab_size: u32,
    },
    /// The sequence would grow beyond the model's context.
    #[error("row {row} of the step would grow to {len} tokens; the model's context is {limit}")]
    ContextFull {
        /// Index of the row.
        row: usize,
        /// Tokens after the step.
        len: usize,
        /// The most there can be.
        limit: u32,
    },
    /// MLX refused or failed an operation.
    #[error(transparent)]
    Mlx(#[from] Exception),
}

impl ModelError {
    /// Whether a step could only not be launched before the one before has been computed.
    pub fn is_too_early(&self) -> bool {
        matches!(self, Self::Kv(KvError::InUse))
    }

    /// The row that a step was refused for, before anything was computed.
    pub fn row(&self) -> Option<usize> {
        match *self {
            Self::EmptyRow { row }
            | Self::LogitsOutOfRange { row, .. }
            | Self::TokenOutOfRange { row, .. }
            | Self::ContextFull { row, .. } => Some(row),
            _ => None,
        }
    }
}
