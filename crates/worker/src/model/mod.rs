//! Models: from an artifact's weights and new tokens to logits.
//!
//! One file a `model_type`, each with the same four names: `Attention`, `Mlp`, `TransformerBlock`, `Model`. What they
//! share is here:
//!
//! ```text
//! args       what the configuration says, checked (settings, rope_args: how it is read)
//! weights    tensors by name, as views of the mapped blobs
//! linear     products with dense and quantized matrices, and what stands around them
//! rope       rotary positions
//! kv         memory for keys and values, and what a sequence has of it
//! attention  all sequences of a step
//! step       what one forward pass gets and gives
//! ```
//!
//! A model file does not know on what it runs: `linear` and `attention` choose between primitives of
//! our own ([`mlx_ext::cpu`]) and MLX's operations.
//!
//! **Batch invariance.** With our own primitives a sequence's logits depend, bit for bit, on its own tokens alone: not
//! on what else is in the step, nor on where its prompt was cut.

mod args;
mod attention;
mod error;
mod kv;
mod linear;
mod llama;
mod rope;
mod rope_args;
mod settings;
mod step;
mod weights;

use artifact_store::Artifact;
use mlx_ext::{Backend, MappedFile};
use mlx_rs::{Array, Dtype, error::Exception, ops::indexing::take_axis, transforms::eval};

pub use error::ModelError;
pub use kv::{KvBudget, SequenceKv};
pub use step::{Logits, StepInput, StepRow};

use attention::StepAttention;
use kv::KvCache;
use weights::{Taken, Weights};

/// The `model_type`s that [`Model::load`] knows.
const SUPPORTED: [&str; 1] = ["llama"];

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// Primitives of our own, in float32: for the CPU.
    Own,
    /// The same, but activations are rounded to 8 bits instead of 16 before they meet weights of 4 bits: faster and less
    /// exact.
    OwnInt8,
    /// MLX's operations, in the model's own float type: for the GPU.
    Mlx,
    /// MLX's operations on weights expanded to float32: what the others are compared with.
    MlxFloat32,
}

/// A loaded model. All MLX work belongs to the thread that loaded it.
pub struct Model {
    architecture: Architecture,
    cache: KvCache,
    weight_bytes: u64,
    /// What the weights are views of.
    _files: Vec<MappedFile>,
}

enum Architecture {
    Llama(llama::Model),
}

impl Kernels {
    /// Whether it is primitives of our own that compute.
    fn are_own(self) -> bool {
        matches!(self, Self::Own | Self::OwnInt8)
    }

    /// What is fastest on a backend.
    pub fn of(backend: Backend) -> Self {
        match backend {
            Backend::Cpu => Self::Own,
            Backend::Gpu => Self::Mlx,
        }
    }
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
    pub fn load(artifact: &Artifact, kernels: Kernels, budget: KvBudget) -> Result<Self, ModelError> {
        let config = &artifact.manifest.config;
        let mut weights = Weights::open(artifact)?;
        let architecture = match artifact.manifest.architecture() {
            Some("llama") => Architecture::Llama(llama::Model::load(config, &mut weights, kernels)?),
            other => return Err(ModelError::UnsupportedType { found: other.map(str::to_owned) }),
        };
        let Taken { bytes: weight_bytes, files } = weights.finish()?;
        let cache = match &architecture {
            Architecture::Llama(model) => KvCache::new(model.kv_shape(), budget, kernels)?,
        };
        Ok(Self { architecture, cache, weight_bytes, _files: files })
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

    /// Tokens, of all sequences together, whose keys and values fit the budget.
    pub fn kv_tokens(&self) -> usize {
        self.cache.tokens()
    }

    /// Keys and values of a sequence that has no tokens yet.
    pub fn new_kv(&self) -> SequenceKv {
        self.cache.sequence()
    }

    /// Computes a prompt of `chunk` tokens and one token more, for nothing: on a GPU the first use of the weights reads
    /// them, and that of each operation compiles it. A first step that also did so would look frozen.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn warm_up(&self, chunk: usize) -> Result<(), ModelError> {
        let most = self.kv_tokens().min(self.context_length() as usize);
        let prompt = vec![0; chunk.clamp(1, most)];
        let mut kv = self.new_kv();
        for tokens in [&prompt[..], &[0]] {
            if kv.len() + tokens.len() <= most {
                let rows = vec![StepRow::last_logits(tokens, &mut kv)];
                self.forward(&mut StepInput { rows })?;
            }
        }
        Ok(())
    }

    /// Runs the new tokens of several sequences, appending to their keys and values.
    ///
    /// Returns the evaluated logits after each token that needs them ([`StepRow::logits`]), in the order of the rows;
    /// `None` if none does.
    ///
    /// # Errors
    /// Input that does not fit ([`ModelError::EmptyRow`], [`ModelError::LogitsOutOfRange`],
    /// [`ModelError::TokenOutOfRange`], [`ModelError::ContextFull`]) is refused before anything is computed. After any error every
    /// sequence has the length it had before; [`SequenceKv::is_intact`] says whether it can go on.
    pub fn forward(&self, input: &mut StepInput<'_>) -> Result<Option<Logits>, ModelError> {
        step::check(input, self.vocab_size(), self.context_length())?;
        if input.rows.is_empty() {
            return Ok(None);
        }
        let (tokens, wanted) = (step::tokens(input), step::wanted(input));
        let hidden = self.hidden(&tokens, input)?;
        let logits = if wanted.is_empty() {
            None
        } else if wanted.len() == tokens.size() {
            Some(self.logits(&hidden)?)
        } else {
            let indices = Array::from_slice(&wanted, &[wanted.len() as i32]);
            Some(self.logits(&take_axis(&hidden, &indices, 0)?)?)
        };
        eval(input.rows.iter().flat_map(|row| row.kv.arrays()).chain(logits.as_ref().or(Some(&hidden))))?;
        for row in &mut input.rows {
            row.kv.advance(row.tokens.len());
        }
        Ok(logits.map(Logits::new).transpose()?)
    }

    /// `[tokens, hidden]` before the last normalization, lazy.
    fn hidden(&self, tokens: &Array, input: &mut StepInput<'_>) -> Result<Array, ModelError> {
        match &self.architecture {
            Architecture::Llama(model) => {
                let step = StepAttention::begin(&self.cache, model.heads(), model.rope(), &mut input.rows)?;
                Ok(model.hidden(tokens, &step)?)
            }
        }
    }

    /// float32 `[rows, vocab]` of `[rows, hidden]`, lazy.
    fn logits(&self, hidden: &Array) -> Result<Array, Exception> {
        let logits = match &self.architecture {
            Architecture::Llama(model) => model.logits(hidden)?,
        };
        logits.as_dtype(Dtype::Float32)
    }
}
