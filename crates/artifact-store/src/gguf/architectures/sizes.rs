//! The sizes of a model, and its other settings under the architecture's prefix.

use crate::gguf::{
    GgufError,
    metadata::{Metadata, Value, required},
    reader::{Gguf, Tensor},
};

/// Most layers and experts, the largest of any other dimension, and the longest context that are believed.
const MAX_LAYERS: u64 = 4096;
const MAX_EXPERTS: u64 = 4096;
const MAX_DIM: u64 = 1 << 24;
pub(super) const MAX_CONTEXT: u64 = 1 << 30;

/// What llama.cpp takes where the metadata has no base of the rotation.
const DEFAULT_ROPE_BASE: f64 = 10_000.0;

/// A file, read as one of this architecture.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) gguf: &'a Gguf,
    /// Before the keys of its settings.
    pub(super) prefix: &'a str,
}

/// Sizes of the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sizes {
    pub(super) hidden: u64,
    pub(super) intermediate: u64,
    pub(super) layers: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
    /// Components of a head that are rotated.
    pub(super) rotated: u64,
    pub(super) vocab: u64,
    pub(super) context: u64,
    pub(super) rope_base: f64,
    pub(super) epsilon: f64,
    pub(super) experts: Option<ExpertSizes>,
}

/// Of models with experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExpertSizes {
    pub(super) count: u64,
    /// How many of them a token goes through.
    pub(super) chosen: u64,
    pub(super) intermediate: u64,
}

/// Which layers have a window.
pub(super) enum WindowPattern {
    /// Of as many layers, the last one has none.
    Period(u64),
    Layers(Vec<bool>),
}

impl<'a> Source<'a> {
    pub(super) fn metadata(&self) -> &'a Metadata {
        &self.gguf.metadata
    }

    /// The whole key of a setting.
    pub(super) fn key(&self, setting: &str) -> String {
        format!("{}.{setting}", self.prefix)
    }

    /// A number from 1 to `most`.
    pub(super) fn size(&self, setting: &str, most: u64) -> Result<Option<u64>, GgufError> {
        let key = self.key(setting);
        match self.metadata().unsigned(&key)? {
            Some(size) if !(1..=most).contains(&size) => {
                Err(GgufError::Damaged(format!("`{key}` is {size}, which is not from 1 to {most}")))
            }
            size => Ok(size),
        }
    }

    /// The same of a setting that has to be there.
    pub(super) fn required_size(&self, setting: &str, most: u64) -> Result<u64, GgufError> {
        required(self.size(setting, most)?, &self.key(setting))
    }

    /// A positive number.
    pub(super) fn positive(&self, setting: &str) -> Result<Option<f64>, GgufError> {
        self.metadata().positive(&self.key(setting))
    }

    pub(super) fn has(&self, tensor: &str) -> bool {
        self.tensor(tensor).is_some()
    }

    fn tensor(&self, name: &str) -> Option<&'a Tensor> {
        self.gguf.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The window of those layers that have one; 0 in the metadata means none.
    pub(super) fn window(&self) -> Result<Option<u64>, GgufError> {
        let setting = "attention.sliding_window";
        match self.metadata().unsigned(&self.key(setting))? {
            None | Some(0) => Ok(None),
            Some(_) => self.size(setting, MAX_CONTEXT),
        }
    }

    /// `layer_types` as Hugging Face has it, where one of `period` layers has no window unless the metadata says otherwise.
    pub(super) fn layer_types(&self, layers: u64, period: u64) -> Result<Vec<&'static str>, GgufError> {
        let windows = match self.window_pattern()? {
            _ if self.window()?.is_none() => vec![false; layers as usize],
            Some(WindowPattern::Layers(windows)) if windows.len() as u64 == layers => windows,
            Some(WindowPattern::Layers(windows)) => {
                let key = self.key("attention.sliding_window_pattern");
                return Err(GgufError::Damaged(format!(
                    "`{key}` is for {} layers of {layers}",
                    windows.len()
                )));
            }
            Some(WindowPattern::Period(period)) => every(layers, period),
            None => every(layers, period),
        };
        Ok(windows
            .into_iter()
            .map(|window| if window { "sliding_attention" } else { "full_attention" })
            .collect())
    }

    fn window_pattern(&self) -> Result<Option<WindowPattern>, GgufError> {
        let key = self.key("attention.sliding_window_pattern");
        self.metadata().get(&key, |value| match value {
            Value::Array(layers) => {
                let window = |value: &Value| match value {
                    Value::Bool(window) => Some(*window),
                    other => other.as_unsigned().map(|window| window != 0),
                };
                layers.iter().map(window).collect::<Option<_>>().map(WindowPattern::Layers)
            }
            other => other.as_unsigned().map(WindowPattern::Period),
        })
    }
}

/// Whether each layer has a window: of `period` layers all but the last; of a period of 0 all.
fn every(layers: u64, period: u64) -> Vec<bool> {
    (0..layers).map(|layer| period == 0 || layer % period + 1 < period).collect()
}

impl Sizes {
    /// Reads what all architectures have.
    ///
    /// # Errors
    /// Sizes that cannot be, or that do not fit each other.
    pub(super) fn read(source: &Source<'_>) -> Result<Self, GgufError> {
        let optional = |setting: &str| source.size(setting, MAX_DIM);
        let hidden = source.required_size("embedding_length", MAX_DIM)?;
        let heads = source.required_size("attention.head_count", MAX_DIM)?;
        let kv_heads = optional("attention.head_count_kv")?.unwrap_or(heads);
        let head_dim = optional("attention.key_length")?.unwrap_or(hidden / heads);
        let value_dim = optional("attention.value_length")?.unwrap_or(head_dim);
        let rotated = optional("rope.dimension_count")?.unwrap_or(head_dim);
        let is_even = |dim: u64| dim > 0 && dim.is_multiple_of(2);
        if !is_even(head_dim)
            || !is_even(rotated)
            || rotated > head_dim
            || value_dim != head_dim
            || heads % kv_heads != 0
        {
            return Err(GgufError::Unsupported(format!(
                "{heads} query and {kv_heads} key heads of {head_dim} (values {value_dim}, rotated {rotated}) \
                 are not a shape that can be served"
            )));
        }
        let embedding = source.tensor("token_embd.weight").and_then(|tensor| tensor.shape.first().copied());
        let missing = || GgufError::Damaged("tensor `token_embd.weight` is missing".to_owned());
        let epsilon = "attention.layer_norm_rms_epsilon";
        Ok(Self {
            hidden,
            intermediate: source.required_size("feed_forward_length", MAX_DIM)?,
            layers: source.required_size("block_count", MAX_LAYERS)?,
            heads,
            kv_heads,
            head_dim,
            rotated,
            vocab: embedding.ok_or_else(missing)?,
            context: source.required_size("context_length", MAX_CONTEXT)?,
            rope_base: source.positive("rope.freq_base")?.unwrap_or(DEFAULT_ROPE_BASE),
            epsilon: required(source.positive(epsilon)?, &source.key(epsilon))?,
            experts: None,
        })
    }

    /// The same with experts, whose inner size is that of the feed-forward network if the metadata does not say it.
    ///
    /// # Errors
    /// Numbers that cannot be.
    pub(super) fn with_experts(self, source: &Source<'_>) -> Result<Self, GgufError> {
        let count = source.required_size("expert_count", MAX_EXPERTS)?;
        let chosen = source.required_size("expert_used_count", count)?;
        let intermediate = source.size("expert_feed_forward_length", MAX_DIM)?.unwrap_or(self.intermediate);
        Ok(Self { experts: Some(ExpertSizes { count, chosen, intermediate }), ..self })
    }

    /// Refuses heads of which only a part is rotated.
    pub(super) fn whole_heads(self) -> Result<Self, GgufError> {
        if self.rotated == self.head_dim {
            return Ok(self);
        }
        Err(GgufError::Unsupported(format!(
            "{} of a head's {} components are rotated, which its architecture does not have",
            self.rotated, self.head_dim
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_period_the_last_layer_sees_all() {
        assert_eq!(every(4, 2), [true, false, true, false]);
        assert_eq!(every(3, 3), [true, true, false]);
        assert_eq!(every(2, 1), [false, false]);
        assert_eq!(every(2, 0), [true, true]);
    }
}
