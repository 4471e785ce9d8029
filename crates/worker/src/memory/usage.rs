//! What the heartbeat says about memory.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use protocol::message::WorkerMemory;

use super::ResidentMemory;
use crate::{
    engine::EngineStats,
    model::{KvInUse, Model},
};

/// What a worker has in memory. Any thread may look.
pub struct MemoryUsage {
    resident: ResidentMemory,
    weights: u64,
    kv_limit: u64,
    token_bytes: u64,
    kv_in_use: Vec<KvInUse>,
    stats: Arc<EngineStats>,
    adapters: Arc<AtomicU64>,
}

impl MemoryUsage {
    /// That of a worker that serves `model`, perhaps with a draft model, with an engine that counts in `stats`.
    pub fn new(model: &Model, draft: Option<&Model>, stats: Arc<EngineStats>) -> Self {
        let models = || std::iter::once(model).chain(draft);
        Self {
            resident: ResidentMemory::new(),
            weights: models().map(|model| model.weight_bytes() + model.private_bytes()).sum(),
            kv_limit: models().map(Model::kv_bytes).sum(),
            token_bytes: model.kv_token_bytes() as u64,
            kv_in_use: models().map(Model::kv_in_use).collect(),
            stats,
            adapters: Arc::default(),
        }
    }

    /// The same with adapters, whose bytes are counted there: they are weights, too.
    #[must_use]
    pub fn with_adapters(self, adapters: Arc<AtomicU64>) -> Self {
        Self { adapters, ..self }
    }

    /// That of a worker whose model keeps no keys and values, and has weights of so many bytes.
    pub fn of_weights(weights: u64, stats: Arc<EngineStats>) -> Self {
        let (resident, kv_in_use, adapters) = (ResidentMemory::new(), Vec::new(), Arc::default());
        Self { resident, weights, kv_limit: 0, token_bytes: 0, kv_in_use, stats, adapters }
    }

    /// Resident memory of the process in bytes; 0 if the system does not tell.
    pub fn resident(&mut self) -> u64 {
        self.resident.bytes()
    }

    /// What it has now. Keys and values are counted in whole blocks.
    pub fn now(&self) -> WorkerMemory {
        // What MLX does not say is no reason to be silent about the rest.
        let mlx = mlx_ext::mlx_memory().unwrap_or_default();
        let kv = self.kv_in_use.iter().map(|in_use| in_use()).sum();
        WorkerMemory {
            weights: self.weights.saturating_add(self.adapters.load(Ordering::Relaxed)),
            kv,
            kv_limit: self.kv_limit,
            // Of layers with windows they may have lost a part.
            kept_prefixes: (self.stats.kept_tokens() * self.token_bytes).min(kv),
            mlx_active: mlx.active,
            mlx_cache: mlx.cache,
        }
    }
}
