//! Models: from an artifact's weights and new tokens to logits.
//!
//! One file a `model_type`, each with the same five names: `ModelArgs`, `Attention`, `Mlp`,
//! `TransformerBlock`, `Model`. What they share is here:
//!
//! ```text
//! weights   tensors by name, as views of the mapped blobs
//! linear    products with dense and quantized matrices
//! rope      rotary positions
//! kv        keys and values of one sequence
//! step      what one forward pass gets and gives, cut into parts
//! ```
//!
//! **Batch invariance.** A sequence's logits depend on its own tokens and chunk boundaries, never
//! on what else is in the step. So a step is cut into parts: all rows of one token
//! together, in products that treat each row by itself, and each longer chunk alone. Rows meet in
//! no product whose order of additions depends on how many they are.

mod error;
mod kv;
mod linear;
mod llama;
mod rope;
mod step;
mod weights;

use artifact_store::Artifact;
use mlx_ext::Backend;
use mlx_rs::{
    Array, Dtype,
    ops::{concatenate, indexing::TryIndexOp},
    transforms::eval,
};

pub use error::ModelError;
pub use kv::SequenceKv;
pub use step::{Logits, StepInput, StepRow};

use step::Part;
use weights::Weights;

/// The `model_type`s that [`Model::load`] knows.
const SUPPORTED: [&str; 1] = ["llama"];

/// A loaded model. All MLX work belongs to the thread that loaded it.
pub struct Model {
    architecture: Architecture,
    weight_bytes: u64,
}

enum Architecture {
    Llama(llama::Model),
}

impl Model {
    /// Maps the artifact's weights and checks that they are what its configuration asks for.
    ///
    /// Reads no weight: the time does not grow with the model's size. [`mlx_ext::init`] has to
    /// come first, on any thread. The caller keeps `artifact`, and with it the lease, while the
    /// model lives.
    ///
    /// # Errors
    /// Each names the tensor or the setting it is about.
    pub fn load(artifact: &Artifact) -> Result<Self, ModelError> {
        let config = &artifact.manifest.config;
        let backend = Backend::current()?;
        let mut weights = Weights::open(artifact)?;
        let architecture = match artifact.manifest.architecture() {
            Some("llama") => Architecture::Llama(llama::Model::load(config, &mut weights, backend)?),
            other => return Err(ModelError::UnsupportedType { found: other.map(str::to_owned) }),
        };
        let weight_bytes = weights.finish()?;
        Ok(Self { architecture, weight_bytes })
    }

    /// The most tokens a sequence can have, prompt and answer together.
    pub fn context_length(&self) -> u32 {
        match &self.architecture {
            Architecture::Llama(model) => model.context_length(),
        }
    }

    /// How many tokens there are, and how long a row of [`Logits`] is.
    pub fn vocab_size(&self) -> u32 {
        match &self.architecture {
            Architecture::Llama(model) => model.vocab_size(),
        }
    }

    /// Bytes of the weights, as stored.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Bytes of keys and values that each token of a sequence takes.
    pub fn kv_bytes_per_token(&self) -> u64 {
        match &self.architecture {
            Architecture::Llama(model) => model.kv_bytes_per_token(),
        }
    }

    /// Keys and values of a sequence that has no tokens yet.
    pub fn new_kv(&self) -> SequenceKv {
        match &self.architecture {
            Architecture::Llama(model) => model.new_kv(),
        }
    }

    /// Runs the new tokens of several sequences, appending to their keys and values.
    ///
    /// Returns the evaluated logits after the last token of each row that wants them, in the order
    /// of the rows; `None` if no row wants any.
    ///
    /// # Errors
    /// Input that does not fit ([`ModelError::EmptyRow`], [`ModelError::TokenOutOfRange`],
    /// [`ModelError::ContextFull`]) is refused before anything is computed. After any error every
    /// sequence has the length it had before; after one of MLX its contents are unusable.
    pub fn forward(&self, input: &mut StepInput<'_>) -> Result<Option<Logits>, ModelError> {
        step::check(input, self.vocab_size(), self.context_length())?;
        let mut wanted: Vec<(usize, Array)> = Vec::new();
        for part in &mut step::parts(input) {
            let hidden = self.hidden(part)?;
            for (row, last_token) in part.wanted() {
                wanted.push((row, hidden.try_index(last_token..last_token + 1)?));
            }
        }
        wanted.sort_by_key(|(row, _)| *row);
        let logits = match &wanted[..] {
            [] => None,
            [(_, one)] => Some(self.logits(one)?),
            several => {
                let several: Vec<&Array> = several.iter().map(|(_, hidden)| hidden).collect();
                Some(self.logits(&concatenate(&several, 0)?)?)
            }
        };
        eval(input.rows.iter().flat_map(|row| row.kv.arrays()).chain(&logits))?;
        for row in &mut input.rows {
            row.kv.advance(row.tokens.len());
        }
        Ok(logits.map(|array| Logits::read(&array)).transpose()?)
    }

    /// `[tokens, hidden]` before the last normalization, lazy.
    fn hidden(&self, part: &mut Part<'_>) -> Result<Array, ModelError> {
        match &self.architecture {
            Architecture::Llama(model) => model.hidden(part),
        }
    }

    /// float32 `[rows, vocab]` of `[rows, hidden]`, lazy.
    fn logits(&self, hidden: &Array) -> Result<Array, ModelError> {
        let logits = match &self.architecture {
            Architecture::Llama(model) => model.logits(hidden)?,
        };
        Ok(logits.as_dtype(Dtype::Float32)?)
    }
}
