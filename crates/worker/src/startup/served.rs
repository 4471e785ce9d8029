//! What a worker serves: a model that generates text, or one that embeds it.

use std::sync::Arc;

use anyhow::ensure;
use artifact_store::Artifact;
use mlx_ext::Device;
use protocol::options::WorkerOptions;

use super::draft::{LoadedModels, StoredDraft};
use crate::{
    engine::EngineStats,
    memory::{MemoryPlan, MemoryUsage},
    model::{Dimensions, EmbeddingModel, KvWindows, ModelSize, stored_size},
    options,
};

/// Everything that needs the weights.
pub(super) enum Served {
    /// It generates, perhaps with drafts.
    Generating(Box<LoadedModels>),
    /// It embeds.
    Embedding(LoadedEmbedding),
}

/// A model that embeds text.
pub(super) struct LoadedEmbedding {
    pub(super) model: EmbeddingModel,
    /// Bytes that are set aside beside the weights.
    other_bytes: u64,
}

impl Served {
    /// Loads the weights, if they fit into the worker's share of memory.
    pub(super) fn load(
        artifact: &Artifact,
        draft: Option<&StoredDraft>,
        options: &WorkerOptions,
    ) -> anyhow::Result<Self> {
        if !EmbeddingModel::is_one(&artifact.manifest) {
            return LoadedModels::load(artifact, draft, options).map(Box::new).map(Self::Generating);
        }
        ensure!(draft.is_none(), "a model that embeds text takes no draft model");
        LoadedEmbedding::load(artifact, options, mlx_ext::init()?).map(Self::Embedding)
    }

    /// The most tokens of a sequence or an input.
    pub(super) fn context_length(&self) -> u32 {
        match self {
            Self::Generating(models) => models.model.context_length(),
            Self::Embedding(loaded) => loaded.model.max_tokens(),
        }
    }

    /// How many tokens there are.
    pub(super) fn vocab_size(&self) -> u32 {
        match self {
            Self::Generating(models) => models.model.vocab_size(),
            Self::Embedding(loaded) => loaded.model.vocab_size(),
        }
    }

    /// Bytes of the weights, those of a draft model included.
    pub(super) fn weight_bytes(&self) -> u64 {
        match self {
            Self::Generating(models) => models.weight_bytes(),
            Self::Embedding(loaded) => loaded.model.weight_bytes(),
        }
    }

    /// Most bytes of keys and values.
    pub(super) fn kv_bytes(&self) -> u64 {
        match self {
            Self::Generating(models) => models.kv_bytes(),
            Self::Embedding(_) => 0,
        }
    }

    /// Bytes that are set aside beside weights, keys and values.
    pub(super) fn other_bytes(&self) -> u64 {
        match self {
            Self::Generating(models) => models.other_bytes,
            Self::Embedding(loaded) => loaded.other_bytes,
        }
    }

    /// Tokens for whose keys and values there is memory. What embeds keeps none: the context is its only limit.
    pub(super) fn kv_tokens(&self) -> usize {
        match self {
            Self::Generating(models) => models.model.kv_tokens(),
            Self::Embedding(loaded) => loaded.model.max_tokens() as usize,
        }
    }

    /// What is held in layers that keep no more than their windows reach, if there are any.
    pub(super) fn kv_windows(&self) -> Option<KvWindows> {
        self.generating().and_then(|models| models.model.kv_windows())
    }

    /// Most sequences that may be in a step, whatever their tokens take. What embeds has no limit.
    pub(super) fn kv_sequences(&self) -> usize {
        self.generating().map_or(usize::MAX, |models| models.model.kv_sequences())
    }

    /// The models, if it generates.
    pub(super) fn generating(&self) -> Option<&LoadedModels> {
        match self {
            Self::Generating(models) => Some(models),
            Self::Embedding(_) => None,
        }
    }

    /// How long embeddings are, if it embeds.
    pub(super) fn embedding(&self) -> Option<&Dimensions> {
        match self {
            Self::Generating(_) => None,
            Self::Embedding(loaded) => Some(loaded.model.dimensions()),
        }
    }

    /// What says what it has in memory.
    pub(super) fn memory_usage(&self, stats: Arc<EngineStats>) -> MemoryUsage {
        match self {
            Self::Generating(models) => MemoryUsage::new(&models.model, models.draft.as_ref(), stats),
            Self::Embedding(loaded) => {
                let model = &loaded.model;
                MemoryUsage::of_weights(model.weight_bytes() + model.private_bytes(), stats)
            }
        }
    }
}

impl LoadedEmbedding {
    fn load(artifact: &Artifact, options: &WorkerOptions, device: Device) -> anyhow::Result<Self> {
        let plan = MemoryPlan::new(options, device, stored_size(&artifact.manifest))?;
        mlx_ext::set_cache_limit(plan.cache_bytes())?;
        let model = EmbeddingModel::load(artifact, options::kernels(options, device))?;
        let bytes = plan.divide(ModelSize {
            weight_bytes: model.weight_bytes(),
            private_bytes: model.private_bytes(),
            kv_token_bytes: 0,
            state_bytes: 0,
            context_length: model.max_tokens(),
        })?;
        model.warm_up()?;
        Ok(Self { model, other_bytes: bytes.other })
    }
}
