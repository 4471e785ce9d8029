//! Models: from an artifact's weights and new tokens to logits.
//!
//! ```text
//! adapters   what some rows add to some of the products
//! arch       one file an architecture, and the registry of them
//! layers     what architectures are built of
//! encoder    models that embed text
//! headless   decoders as such
//! pooling    from hidden states to an embedding
//! config     what the configuration says, checked
//! packing    how matrices are packed
//! weights    tensors by name, as views of the mapped blobs
//! state      what is remembered of a sequence, and the memory for it
//! step       what one forward pass gets and gives
//! launch     steps that the host does not wait for
//! size       how large a model is, before it is loaded
//! ```
//!
//! `arch` imports only `layers`; `layers` asks a `backend` to compute, and does not know on what it runs.
//! On the CPU a sequence's logits depend, bit for bit, on its own tokens alone: not on what else is in the step, nor on
//! where its prompt was cut.

mod adapters;
mod arch;
mod config;
mod encoder;
mod error;
mod headless;
mod launch;
mod layers;
mod packing;
mod pooling;
mod size;
mod state;
mod step;
mod weights;

use std::{cell::Cell, sync::Arc, time::Duration};

use artifact_store::Artifact;
use mlx_ext::MappedFile;
use mlx_rs::{Array, Dtype, error::Exception};

pub use adapters::{Adaptable, Adapter, AdapterError};
pub use encoder::{Dimensions, EmbeddingModel, Fewer};
pub use error::ModelError;
pub use launch::{Before, Landed, LaunchInput, Launched};
pub use pooling::normalize;
pub use size::{ModelSize, stored_size};
pub use state::SequenceKv;
pub use step::{Logits, StepInput, StepRow};

pub use crate::backend::{Kernels, KvBudget, KvDtype, KvError, KvInUse, KvWindows, Progress, pinned_states};

use crate::{
    backend::{AttentionSpec, Backend, KvGeometry, PackedInputs, StateGeometry, StepMemory},
    cache::BLOCK_TOKENS,
    sample::Choice,
};
use adapters::Sites;
use config::Settings;
use state::KvCache;
use weights::{Purpose, Taken, Weights};

/// What one kind of model computes: its layers, with their weights.
trait Architecture {
    /// The most tokens a sequence can have.
    fn context_length(&self) -> u32;

    /// How many tokens there are.
    fn vocab_size(&self) -> u32;

    /// How many numbers a hidden state has.
    fn hidden_size(&self) -> u32;

    /// The attention of each layer that has some, in order.
    fn attention(&self) -> Vec<&AttentionSpec>;

    /// What other layers keep of a sequence.
    fn states(&self) -> StateGeometry {
        StateGeometry::default()
    }

    /// `[tokens, hidden]` of `tokens`, uint32 `[tokens]`, before the last normalization; behind it if the model was loaded to
    /// embed. Appends their keys and values; lazy.
    fn hidden(&self, tokens: &Array, step: &StepMemory<'_>) -> Result<Array, Exception>;

    /// `[rows, vocab]` of `[rows, hidden]`; lazy.
    fn logits(&self, hidden: &Array) -> Result<Array, Exception>;
}

/// What one kind of encoder computes: its layers, with their weights.
trait Encoder {
    /// The most tokens an input can have.
    fn context_length(&self) -> u32;

    /// How many tokens there are.
    fn vocab_size(&self) -> u32;

    /// How many numbers a hidden state has.
    fn hidden_size(&self) -> u32;

    /// `[tokens, hidden]`, the last layer's; lazy.
    fn hidden(&self, input: &EncoderInput<'_>) -> Result<Array, Exception>;
}

/// What is computed together: the tokens of several inputs.
struct EncoderInput<'a> {
    inputs: &'a [&'a [u32]],
    packed: PackedInputs,
}

/// A loaded model. All MLX work belongs to the thread that loaded it.
pub struct Model {
    architecture: Box<dyn Architecture>,
    cache: KvCache,
    backend: Backend,
    progress: Option<Progress>,
    weight_bytes: u64,
    private_bytes: u64,
    kv_bytes: u64,
    /// Time that it took to say what is to be computed, since somebody asked.
    building: Cell<Duration>,
    sites: Sites,
    adaptable: Arc<Adaptable>,
    /// What the weights are views of.
    _files: Vec<MappedFile>,
}

/// A model without memory for keys and values.
struct Opened {
    architecture: Box<dyn Architecture>,
    backend: Backend,
    geometry: KvGeometry,
    states: StateGeometry,
    progress: Option<Progress>,
    size: ModelSize,
    sites: Sites,
    adaptable: Adaptable,
    files: Vec<MappedFile>,
}

impl Opened {
    fn new(artifact: &Artifact, kernels: Kernels, budget: KvBudget) -> Result<Self, ModelError> {
        let entry = arch::find(artifact.manifest.architecture())?;
        let config = Settings::new(&artifact.manifest.config)?.with_defaults(entry.defaults);
        let mut weights = Weights::open(artifact, kernels, Purpose::Generate)?;
        let architecture = (entry.load)(config, &mut weights)?;
        let backend = weights.backend();
        let Taken { bytes: weight_bytes, private_bytes, files, sites, prefix } = weights.finish()?;
        let adaptable = sites.adaptable(backend, prefix);
        let attention = architecture.attention();
        let (geometry, progress) = (state::geometry(&attention, backend)?, backend.progress(&attention));
        let states = architecture.states();
        let size = ModelSize {
            weight_bytes,
            private_bytes,
            kv_token_bytes: backend.kv_token_bytes(&geometry, budget) as u64,
            state_bytes: backend.state_bytes(&states),
            context_length: architecture.context_length(),
        };
        Ok(Self { architecture, backend, geometry, states, progress, size, sites, adaptable, files })
    }

    fn with_kv(self, budget: KvBudget) -> Result<Model, ModelError> {
        let Self { architecture, backend, geometry, states, progress, size, sites, adaptable, files } = self;
        let context = size.context_length as usize;
        let cache = KvCache::new(&geometry, &states, budget, context, backend)?;
        Ok(Model {
            architecture,
            cache,
            backend,
            progress,
            weight_bytes: size.weight_bytes,
            private_bytes: size.private_bytes,
            kv_bytes: budget.bytes,
            building: Cell::default(),
            sites,
            adaptable: Arc::new(adaptable),
            _files: files,
        })
    }
}

impl Model {
    /// Every `model_type` that can be loaded.
    pub fn architectures() -> impl Iterator<Item = &'static str> {
        arch::REGISTRY.iter().map(|entry| entry.model_type)
    }

    /// The same of models that embed text: [`EmbeddingModel`].
    pub fn encoders() -> impl Iterator<Item = &'static str> {
        arch::ENCODERS.iter().map(|entry| entry.model_type)
    }

    /// Whether this `model_type` can be loaded, as far as that alone decides.
    ///
    /// # Errors
    /// [`ModelError::UnsupportedType`].
    pub fn check_architecture(found: Option<&str>) -> Result<(), ModelError> {
        if arch::find_encoder(found).is_some() {
            return Ok(());
        }
        arch::find(found).map(drop)
    }

    /// Maps the artifact's weights and checks that they are what its configuration asks for.
    ///
    /// Reads no weight and takes no time that grows with the model's size, with exceptions, whose bytes
    /// [`private_bytes`](Self::private_bytes) counts: tensors that are not aligned in their file are copied; on the CPU
    /// mxfp8 and nvfp4 are expanded, and on a GPU experts that are stored one by one are stacked. [`mlx_ext::init`] has to
    /// come first, on any thread. The caller keeps `artifact`, and with it the lease, while the model lives.
    ///
    /// # Errors
    /// Each names the tensor or the setting it is about.
    pub fn load(artifact: &Artifact, kernels: Kernels, budget: KvBudget) -> Result<Self, ModelError> {
        Self::load_within(artifact, kernels, budget, |_| Ok(budget.bytes))
    }

    /// The same, but how many bytes there are for keys and values is decided when it is known what the model takes.
    ///
    /// # Errors
    /// Those of [`load`](Self::load), and that of `divide`.
    pub fn load_within<E: From<ModelError>>(
        artifact: &Artifact,
        kernels: Kernels,
        budget: KvBudget,
        divide: impl FnOnce(ModelSize) -> Result<u64, E>,
    ) -> Result<Self, E> {
        let opened = Opened::new(artifact, kernels, budget)?;
        let bytes = divide(opened.size)?;
        Ok(opened.with_kv(KvBudget { bytes, ..budget })?)
    }

    /// The most tokens a sequence can have, prompt and answer together.
    pub fn context_length(&self) -> u32 {
        self.architecture.context_length()
    }

    /// How many tokens there are, and how long a row of [`Logits`] is.
    pub fn vocab_size(&self) -> u32 {
        self.architecture.vocab_size()
    }

    /// Bytes of the weights as they are stored, which all workers map.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Bytes of weights that this worker has for itself: copied, or in another form than they are stored in.
    pub fn private_bytes(&self) -> u64 {
        self.private_bytes
    }

    /// What loads adapters of it, on any thread.
    pub fn adaptable(&self) -> Arc<Adaptable> {
        Arc::clone(&self.adaptable)
    }

    /// How many threads compute on this machine's cores, the calling one included; they are free between steps.
    pub fn threads(&self) -> usize {
        self.backend.threads()
    }

    /// What shows that a step goes on, where that can be seen.
    pub fn progress(&self) -> Option<Progress> {
        self.progress
    }

    /// Everything that keys and values depend on, besides the weights and the tokens.
    pub fn kv_identity(&self) -> &str {
        self.cache.identity()
    }

    /// Most bytes of keys and values, of all sequences together.
    pub fn kv_bytes(&self) -> u64 {
        self.kv_bytes
    }

    /// Says how many of them are in use, in whole blocks.
    pub fn kv_in_use(&self) -> KvInUse {
        self.cache.in_use()
    }

    /// Bytes of a token's keys and values, in all layers.
    pub fn kv_token_bytes(&self) -> usize {
        self.cache.token_bytes()
    }

    /// Tokens, of all sequences together, whose keys and values fit the budget, in layers that keep everything.
    pub fn kv_tokens(&self) -> usize {
        self.cache.tokens()
    }

    /// What is held in layers that keep no more of a sequence than their windows reach. `None`: all of them keep everything.
    pub fn kv_windows(&self) -> Option<KvWindows> {
        self.cache.windows()
    }

    /// Whether layers keep states, which every token changes: then a sequence can be cut only where one is kept.
    pub fn has_states(&self) -> bool {
        self.cache.has_states()
    }

    /// Most sequences that may be in a step. Of a model with states one more may have memory.
    pub fn kv_sequences(&self) -> usize {
        self.cache.sequences()
    }

    /// Whether a token gives the same logits whatever is computed beside it, of its own sequence and of others.
    pub fn is_invariant(&self) -> bool {
        self.cache.is_invariant()
    }

    /// Whether tokens that are guessed can be computed beside those before, and be dropped again: only if a token gives the
    /// same logits as alone, and nothing is left of it.
    pub fn checks_drafts(&self) -> bool {
        self.is_invariant() && !self.has_states()
    }

    /// Tokens of the unit in which sequences share memory, so that what is forked takes none.
    pub fn shared_block(&self) -> usize {
        BLOCK_TOKENS
    }

    /// Keys and values of a sequence that has no tokens yet.
    pub fn new_kv(&self) -> SequenceKv {
        self.cache.sequence()
    }

    /// Computes a prompt of `chunk` tokens and two tokens more, chooses a token in each way there is, and discards all of
    /// it, where the first use of things takes long: on a GPU that of the weights reads them, and that of each operation
    /// compiles it. A first step that also did so would look frozen.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn warm_up(&self, chunk: usize) -> Result<(), ModelError> {
        if !self.backend.needs_warm_up() {
            return Ok(());
        }
        let most = self.kv_tokens().min(self.context_length() as usize);
        let prompt = vec![0; chunk.clamp(1, most)];
        let mut kv = self.new_kv();
        for (tokens, choice) in [&prompt[..], &[0], &[0]].into_iter().zip(Choice::KINDS) {
            if kv.len() + tokens.len() <= most {
                let rows = vec![StepRow::last_logits(tokens, &mut kv)];
                self.forward_choosing(&mut StepInput { rows }, &[Some(choice)])?;
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
    /// sequence has what it had before.
    pub fn forward(&self, input: &mut StepInput<'_>) -> Result<Option<Logits>, ModelError> {
        Ok(self.forward_choosing(input, &[])?.logits)
    }

    /// How long the steps since the last call took to say what they compute, before they computed it.
    pub fn take_building(&self) -> Duration {
        self.building.take()
    }

    /// float32 `[rows, vocab]` of `[rows, hidden]`, lazy.
    fn logits(&self, hidden: &Array) -> Result<Array, Exception> {
        self.architecture.logits(hidden)?.as_dtype(Dtype::Float32)
    }
}
