//! How the memory that all workers may use is divided. Gateway and worker compute it alike: the one to know what fits
//! before it starts a process, the other to keep to it. Pure.
//!
//! ```text
//! memory.max_bytes ─┬─ what models have that are loaded already
//!                   └─ left ─┬─ the model's weights: mapped once, for all of its workers
//!                            └─ each worker ─┬─ anything but keys and values, such as weights that it had to expand
//!                                            └─ keys and values, of running requests and kept
//! ```

use std::fmt;

pub use crate::options::MemoryShare;
use crate::options::{KvType, WorkerOptions};

/// What a model needs and can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeeds {
    /// Bytes of the weights, which its workers share.
    pub weight_bytes: u64,
    /// Bytes of keys and values without which a worker is of no use.
    pub least_kv_bytes: u64,
    /// Most bytes of keys and values of a worker.
    pub most_kv_bytes: u64,
    /// Bytes of anything else in a worker.
    pub other_bytes: u64,
}

/// What is known of a model's size before it is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredSize {
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Numbers that a token's keys and values are made of, in all layers; 0 if that is not known.
    pub kv_token_values: u64,
    /// Most tokens of a sequence; 0 if that is not known.
    pub context_length: u32,
}

/// What a worker may use beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerBytes {
    /// For keys and values.
    pub kv: u64,
    /// For anything else.
    pub other: u64,
}

/// A model does not fit into what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it needs {} for its weights and at least {} more ({workers} worker(s) with {} for keys and values and {} for anything \
     else each), and {} are left of `memory.max_bytes`, which is {}; {}",
    Bytes(needs.weight_bytes),
    Bytes(needs.least(*workers) - needs.weight_bytes),
    Bytes(needs.least_kv_bytes),
    Bytes(needs.other_bytes),
    Bytes(*left_bytes),
    Bytes(*max_bytes),
    self.advice()
)]
pub struct Shortage {
    /// What it needs.
    pub needs: MemoryNeeds,
    /// Workers that it was to have.
    pub workers: u32,
    /// Bytes that are left for it.
    pub left_bytes: u64,
    /// Bytes that all workers of all models may use.
    pub max_bytes: u64,
}

/// A number of bytes, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// Tokens whose keys and values a worker must have room for, beside a block for each sequence: enough for a short
/// conversation.
const LEAST_TOKENS: u64 = 2048;

/// Tokens of a block of keys and values.
const BLOCK_TOKENS: u64 = 32;

/// Bytes that a worker may have beside weights, keys, values and MLX's cache: the program, the tokenizer, and what a step
/// computes.
const PROGRAM_BYTES: u64 = 256 << 20;

/// More than this, MLX does not make use of.
const MAX_GPU_CACHE_BYTES: u64 = 2 << 30;

/// Bytes of prefixes on their way to or from the disk: as many in each direction as the prefix store allows.
const ON_THE_WAY_BYTES: u64 = 2 * (256 << 20);

impl StoredSize {
    /// That of a model and the one that drafts tokens for it, which holds as many.
    #[must_use]
    pub fn and_draft(self, draft: Self) -> Self {
        Self {
            weight_bytes: self.weight_bytes.saturating_add(draft.weight_bytes),
            kv_token_values: self.kv_token_values.saturating_add(draft.kv_token_values),
            ..self
        }
    }
}

impl MemoryShare {
    /// Bytes of freed memory that MLX may keep in each worker of a model with such weights, on a GPU: there it uses them
    /// again instead of asking the system. On a CPU it keeps none.
    pub fn gpu_cache_bytes(&self, weight_bytes: u64) -> u64 {
        let beside_weights = self.left_bytes.saturating_sub(weight_bytes);
        (beside_weights / u64::from(self.workers.max(1)) / 8).min(MAX_GPU_CACHE_BYTES)
    }

    /// What each worker of a model may use.
    ///
    /// # Errors
    /// Not even the least fits.
    pub fn of_each_worker(&self, needs: &MemoryNeeds) -> Result<WorkerBytes, Shortage> {
        let MemoryNeeds { weight_bytes, least_kv_bytes, most_kv_bytes, other_bytes: other } = *needs;
        let beside_weights = self.left_bytes.checked_sub(weight_bytes);
        let each = beside_weights.map(|bytes| bytes / u64::from(self.workers.max(1)));
        let least = least_kv_bytes.saturating_add(other);
        let Some(each) = each.filter(|each| *each >= least) else {
            let Self { max_bytes, left_bytes, workers, .. } = *self;
            return Err(Shortage { needs: *needs, workers, left_bytes, max_bytes });
        };
        let fair = if self.leaves_room { each / 2 } else { each };
        Ok(WorkerBytes { kv: most_kv_bytes.min(fair.max(least) - other), other })
    }
}

impl MemoryNeeds {
    /// Those of a model whose tokens have keys and values of `kv_token_bytes` bytes and whose sequences have `context`
    /// tokens at most. `cache_bytes` is what MLX may keep of freed memory.
    pub fn new(
        options: &WorkerOptions,
        weight_bytes: u64,
        kv_token_bytes: u64,
        context: u64,
        cache_bytes: u64,
    ) -> Self {
        let blocks = context.min(LEAST_TOKENS).div_ceil(BLOCK_TOKENS) + u64::from(options.max_sequences);
        let least = kv_token_bytes.saturating_mul(BLOCK_TOKENS).saturating_mul(blocks);
        let on_the_way =
            if options.keep_prefixes && options.prefix_disk_bytes > 0 { ON_THE_WAY_BYTES } else { 0 };
        Self {
            weight_bytes,
            least_kv_bytes: least.min(options.kv_bytes),
            most_kv_bytes: options.kv_bytes,
            other_bytes: (PROGRAM_BYTES + on_the_way)
                .saturating_add(cache_bytes)
                .saturating_add(options.adapter_bytes),
        }
    }

    /// No more than those of a model that is stored and not loaded, for workers that have this share. `on_gpu`: whether they
    /// compute there.
    pub fn of_stored(options: &WorkerOptions, share: &MemoryShare, size: StoredSize, on_gpu: bool) -> Self {
        let StoredSize { weight_bytes, kv_token_values, context_length } = size;
        // On a GPU they have the model's own type, which has 16 bits or more.
        let (value_bytes, cache) =
            if on_gpu { (2, share.gpu_cache_bytes(weight_bytes)) } else { (options.kv_type.bytes(), 0) };
        let token_bytes = kv_token_values.saturating_mul(value_bytes);
        Self::new(options, weight_bytes, token_bytes, context_length.into(), cache)
    }

    /// The same with weights that each worker has for itself.
    #[must_use]
    pub fn with_private_weights(self, bytes: u64) -> Self {
        Self { other_bytes: self.other_bytes.saturating_add(bytes), ..self }
    }

    /// Bytes without which `workers` workers can't serve the model.
    pub fn least(&self, workers: u32) -> u64 {
        self.all(workers, WorkerBytes { kv: self.least_kv_bytes, other: self.other_bytes })
    }

    /// Bytes of the model with `workers` workers that have so much each.
    pub fn all(&self, workers: u32, each: WorkerBytes) -> u64 {
        each.kv.saturating_add(each.other).saturating_mul(workers.into()).saturating_add(self.weight_bytes)
    }
}

impl Shortage {
    /// Whether the model would fit if nothing else were loaded.
    pub fn is_temporary(&self) -> bool {
        self.needs.least(self.workers) <= self.max_bytes
    }

    fn advice(&self) -> &'static str {
        if self.is_temporary() {
            "unload another model, lower `worker.kv_max_bytes` so that others leave more, or raise `memory.max_bytes`"
        } else {
            "raise `memory.max_bytes` if the machine has more memory, lower `worker.max_num_seqs`, or use a smaller model, \
             such as one with weights of fewer bits"
        }
    }
}

impl KvType {
    /// Bytes of a component.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Float32 => 4,
            Self::Float16 => 2,
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match UNITS.into_iter().find(|(bits, _)| self.0 >> bits > 0) {
            Some((bits, unit)) => write!(f, "{:.1} {unit}", self.0 as f64 / (1_u64 << bits) as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests;
