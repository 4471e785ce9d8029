//! How workers compute on a CPU.

use serde::Deserialize;

/// How workers compute on a CPU; without effect on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cpu {
    /// What activations are rounded to before they meet quantized weights.
    pub activations: Activations,
    /// In what type keys and values are kept.
    pub kv_type: KvType,
}

/// What activations are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// As exact as float32.
    #[default]
    Int16,
    /// Faster on some CPUs, less exact.
    Int8,
}

/// In what type keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// As they were computed.
    #[default]
    Float32,
    /// In half the memory, a little less exact.
    Float16,
}
