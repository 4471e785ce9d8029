//! Models that embed text: from tokens to one vector for each input. They keep nothing between two calls.

use std::fmt;

use artifact_store::{Artifact, EmbeddingConfig, Manifest, Pooling};
use mlx_ext::MappedFile;
use mlx_rs::{
    Array, Dtype,
    error::{AsSliceError, Exception},
};

use super::{
    Encoder, EncoderInput, ModelError, arch,
    config::Settings,
    headless,
    layers::DenseModules,
    pooling::{normalize, pool},
    weights::{Purpose, Taken, Weights},
};
use crate::backend::{Backend, Kernels};

/// A loaded model that embeds text. All MLX work belongs to the thread that loaded it.
pub struct EmbeddingModel {
    encoder: Box<dyn Encoder>,
    dense: DenseModules,
    config: EmbeddingConfig,
    dimensions: Dimensions,
    backend: Backend,
    weight_bytes: u64,
    private_bytes: u64,
    /// What the weights are views of.
    _files: Vec<MappedFile>,
}

/// How many numbers of its embeddings a model lets clients ask for, with that of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Of a whole embedding.
    pub all: u32,
    /// Fewer.
    pub fewer: Fewer,
}

/// How many of an embedding's first numbers are an embedding, too: what its training has seen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fewer {
    /// It has not.
    None,
    /// Any number of them.
    Any,
    /// These.
    Listed(Vec<u32>),
}

/// Of a model that does not say how it makes embeddings: as sentence-transformers reads it, and normalized as others do.
const DEFAULT_CONFIG: EmbeddingConfig =
    EmbeddingConfig { pooling: Pooling::Mean, normalize: true, max_tokens: None, dense: Vec::new() };

impl Dimensions {
    /// Whether an embedding may have so many numbers.
    pub fn allow(&self, asked: u32) -> bool {
        asked == self.all
            || match &self.fewer {
                Fewer::None => false,
                Fewer::Any => (1..self.all).contains(&asked),
                Fewer::Listed(numbers) => asked < self.all && numbers.contains(&asked),
            }
    }
}

/// As the end of a sentence: "embeddings have …".
impl fmt::Display for Dimensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fewer {
            Fewer::None => write!(f, "{} numbers", self.all),
            Fewer::Any => write!(f, "1 to {} numbers", self.all),
            Fewer::Listed(numbers) => {
                write!(f, "{} numbers, or as many of them as one of {numbers:?}", self.all)
            }
        }
    }
}

impl Fewer {
    /// As `config.json` says it for vLLM.
    fn parse(config: Settings<'_>) -> Result<Self, ModelError> {
        let name = "matryoshka_dimensions";
        if let Some(value) = config.get(name) {
            let numbers = Settings::indices(value).filter(|numbers| !numbers.contains(&0));
            let numbers = numbers.and_then(|all| all.into_iter().map(|n| u32::try_from(n).ok()).collect());
            return numbers.map_or_else(|| config.refuse(name, value), |numbers| Ok(Self::Listed(numbers)));
        }
        Ok(if config.flag("is_matryoshka")? == Some(true) { Self::Any } else { Self::None })
    }
}

impl EmbeddingModel {
    /// Whether the model that the manifest describes embeds text, instead of generating it.
    pub fn is_one(manifest: &Manifest) -> bool {
        manifest.embeds()
    }

    /// Maps the artifact's weights and checks that they are what its configuration asks for, like
    /// [`Model::load`](super::Model::load).
    ///
    /// # Errors
    /// Each names the tensor or the setting it is about.
    pub fn load(artifact: &Artifact, kernels: Kernels) -> Result<Self, ModelError> {
        let manifest = &artifact.manifest;
        let architecture = manifest.architecture();
        if !Self::is_one(manifest) {
            return Err(ModelError::NotAnEncoder { found: architecture.map(str::to_owned) });
        }
        let config = manifest.embedding.clone().unwrap_or(DEFAULT_CONFIG);
        let settings = Settings::new(&manifest.config)?;
        let mut weights = Weights::open(artifact, kernels, Purpose::Embed)?;
        let dense = DenseModules::load(&mut weights, &config.dense)?;
        let encoder = if let Some(entry) = arch::find_encoder(architecture) {
            (entry.load)(settings.with_defaults(entry.defaults), &mut weights)?
        } else {
            let entry = arch::find(architecture)?;
            headless::load(entry, settings.with_defaults(entry.defaults), &mut weights)?
        };
        let backend = weights.backend();
        let Taken { bytes: weight_bytes, private_bytes, files, .. } = weights.finish()?;
        check_width(&config, encoder.hidden_size())?;
        let all = dense.width().unwrap_or_else(|| encoder.hidden_size());
        let dimensions = Dimensions { all, fewer: Fewer::parse(settings)? };
        Ok(Self { encoder, dense, config, dimensions, backend, weight_bytes, private_bytes, _files: files })
    }

    /// The most tokens an input can have.
    pub fn max_tokens(&self) -> u32 {
        self.config.max_tokens.unwrap_or(u32::MAX).min(self.encoder.context_length())
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> u32 {
        self.encoder.vocab_size()
    }

    /// How many numbers an embedding has.
    pub fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    /// Bytes of the weights, as they are stored.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Bytes of weights that are in this process's own memory.
    pub fn private_bytes(&self) -> u64 {
        self.private_bytes
    }

    /// Embeds an input, and discards the result, where the first use of things takes long.
    ///
    /// # Errors
    /// Those of [`embed`](Self::embed).
    pub fn warm_up(&self) -> Result<(), ModelError> {
        if self.backend.needs_warm_up() { self.embed(&[&[0]]).map(drop) } else { Ok(()) }
    }

    /// The embedding of each input, in order. On the CPU it is the same, to the bit, whatever is embedded beside it.
    ///
    /// # Errors
    /// An input that the model could not compute is refused ([`ModelError::EmptyRow`], [`ModelError::TokenOutOfRange`],
    /// [`ModelError::ContextFull`]) before anything is computed.
    pub fn embed(&self, inputs: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.check(inputs)?;
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        // Those of one length side by side.
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by_key(|&index| inputs[index].len());
        let sorted: Vec<&[u32]> = order.iter().map(|&index| inputs[index]).collect();
        let lens: Vec<i32> = sorted.iter().map(|tokens| tokens.len() as i32).collect();
        let input = EncoderInput { inputs: &sorted, packed: self.backend.pack(&lens) };
        let hidden = evaluated(&self.encoder.hidden(&input)?)?;
        let width = self.encoder.hidden_size() as usize;
        let mut rest = &hidden[..];
        let mut pooled = vec![Vec::new(); inputs.len()];
        for (index, tokens) in order.into_iter().zip(sorted) {
            let (states, others) = rest.split_at(tokens.len() * width);
            pooled[index] = pool(states, width, self.config.pooling);
            rest = others;
        }
        let mut embeddings = self.through_dense(pooled)?;
        if self.config.normalize {
            embeddings.iter_mut().for_each(|embedding| normalize(embedding));
        }
        Ok(embeddings)
    }

    /// What the modules behind the pooling make of its vectors.
    fn through_dense(&self, pooled: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, ModelError> {
        let Some(width) = self.dense.width() else { return Ok(pooled) };
        let shape = [pooled.len() as i32, self.encoder.hidden_size() as i32];
        let vectors = evaluated(&self.dense.forward(&Array::from_slice(&pooled.concat(), &shape))?)?;
        Ok(vectors.chunks_exact(width as usize).map(<[f32]>::to_vec).collect())
    }

    fn check(&self, inputs: &[&[u32]]) -> Result<(), ModelError> {
        let (limit, vocab_size) = (self.max_tokens(), self.vocab_size());
        for (row, tokens) in inputs.iter().enumerate() {
            if tokens.is_empty() {
                return Err(ModelError::EmptyRow { row });
            }
            if let Some(&token) = tokens.iter().find(|&&token| token >= vocab_size) {
                return Err(ModelError::TokenOutOfRange { row, token, vocab_size });
            }
            if tokens.len() > limit as usize {
                return Err(ModelError::ContextFull { row, len: tokens.len(), limit });
            }
        }
        Ok(())
    }
}

/// Each module behind the pooling takes what the one before gives.
fn check_width(config: &EmbeddingConfig, hidden_size: u32) -> Result<(), ModelError> {
    let mut width = hidden_size;
    for module in &config.dense {
        if module.inputs != width {
            return Err(ModelError::BadSetting {
                setting: format!("in_features of {}", module.name),
                value: module.inputs.to_string(),
                expected: format!("{width}, which is what stands before it"),
            });
        }
        width = module.outputs;
    }
    Ok(())
}

/// Its numbers.
fn evaluated(array: &Array) -> Result<Vec<f32>, Exception> {
    let array = array.as_dtype(Dtype::Float32)?;
    array.eval()?;
    let values = array.try_as_slice::<f32>().map_err(|error| match error {
        AsSliceError::Exception(error) => error,
        other => Exception::custom(other.to_string()),
    })?;
    Ok(values.to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_configuration_lists_is_shorter() {
        let parse = |config: serde_json::Value| Fewer::parse(Settings::new(&config).unwrap()).ok();
        for (config, expected) in [
            (json!({}), Some(Fewer::None)),
            (json!({"is_matryoshka": false}), Some(Fewer::None)),
            (json!({"is_matryoshka": true}), Some(Fewer::Any)),
            (json!({"matryoshka_dimensions": [32, 64]}), Some(Fewer::Listed(vec![32, 64]))),
            (json!({"matryoshka_dimensions": [0]}), None),
            (json!({"matryoshka_dimensions": 32}), None),
            (json!({"matryoshka_dimensions": [1_u64 << 40]}), None),
            (json!({"is_matryoshka": "x"}), None),
        ] {
            assert_eq!(parse(config.clone()), expected, "{config}");
        }
        let allowed = |fewer| {
            let dimensions = Dimensions { all: 64, fewer };
            [0, 1, 32, 33, 64, 65, 128].into_iter().filter(|n| dimensions.allow(*n)).collect::<Vec<_>>()
        };
        assert_eq!(allowed(Fewer::None), [64]);
        assert_eq!(allowed(Fewer::Any), [1, 32, 33, 64]);
        assert_eq!(allowed(Fewer::Listed(vec![32, 128])), [32, 64]);
    }
}
