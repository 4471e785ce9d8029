//! How the memory that workers may use is divided among models. Pure, but for how much the machine has.
//!
//! While a model loads, the most that it may take is reserved for it. As soon as one of its workers serves, what that
//! worker reported is reserved instead. All reservations together never exceed the budget. A model whose size is not known
//! yet reserves everything that is left.

use protocol::{
    memory::{MemoryNeeds, MemoryShare, Shortage},
    message::ModelInfo,
    options::WorkerOptions,
    stored::StoredModel,
};
use sysinfo::System;
use tracing::warn;

use crate::config::Config;

/// What workers may use.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    max_bytes: u64,
    options: WorkerOptions,
    /// Models come with requests or at run time, beside those that are named at the start.
    others_come: bool,
    /// Models that are named at the start.
    named: usize,
}

/// What of it a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// What its workers are told.
    pub(super) share: MemoryShare,
    /// What is reserved for them.
    pub(super) reserved: u64,
    /// Whether that follows from the model's size. If not, it is all that was left.
    pub(super) is_known: bool,
}

/// Of the machine's memory, where nothing is set, in percent: the rest is for the system, the page cache and others.
const DEFAULT_PERCENT: u64 = 70;

impl MemoryBudget {
    /// What the configuration says, for workers with these options.
    pub(super) fn new(config: &Config, options: WorkerOptions) -> Self {
        let max_bytes = match config.memory.max_bytes {
            0 => machine_memory().map_or_else(
                || {
                    warn!(
                        "the machine does not say how much memory it has: `memory.max_bytes` has no effect"
                    );
                    u64::MAX
                },
                |bytes| bytes / 100 * DEFAULT_PERCENT,
            ),
            bytes => bytes,
        };
        let others_come = config.demand.on || !config.server.admin_keys.is_empty();
        Self { max_bytes, options, others_come, named: config.models.len() }
    }

    #[cfg(test)]
    pub(super) fn fixed(max_bytes: u64, options: WorkerOptions) -> Self {
        Self { max_bytes, options, others_come: true, named: 0 }
    }

    /// Bytes that all workers may use together.
    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// The least that `workers` workers of a model take, as far as the store says.
    ///
    /// # Errors
    /// It is more than there may be.
    pub(super) fn least(&self, model: Option<&StoredModel>, workers: usize) -> Result<u64, Shortage> {
        let share = self.share(0, workers, false);
        let needs = self.needs(model, &share);
        share.of_each_worker(&needs).map(|_| needs.least(share.workers))
    }

    /// What a model with `workers` workers gets beside `reserved` bytes of others. `is_last`: no further one may be loaded
    /// then.
    ///
    /// # Errors
    /// It does not fit.
    pub(super) fn grant(
        &self,
        model: Option<&StoredModel>,
        reserved: u64,
        workers: usize,
        is_last: bool,
    ) -> Result<Grant, Shortage> {
        let share = self.share(reserved, workers, !is_last);
        let reserved = self.reserve(model, &share)?;
        Ok(Grant { share, reserved, is_known: is_known(model) })
    }

    /// Whether models may come beside as many as `loaded`.
    pub(super) fn expects_more(&self, loaded: usize, max_loaded: usize) -> bool {
        loaded < max_loaded && (self.others_come || loaded < self.named)
    }

    /// What is to be reserved for a model with this share: all of it if nothing is known of the model.
    fn reserve(&self, model: Option<&StoredModel>, share: &MemoryShare) -> Result<u64, Shortage> {
        let needs = self.needs(model, share);
        let each = share.of_each_worker(&needs)?;
        Ok(if is_known(model) { needs.all(share.workers, each) } else { share.left_bytes })
    }

    fn share(&self, reserved: u64, workers: usize, leaves_room: bool) -> MemoryShare {
        MemoryShare {
            max_bytes: self.max_bytes,
            left_bytes: self.max_bytes.saturating_sub(reserved),
            workers: workers.try_into().unwrap_or(u32::MAX),
            leaves_room,
        }
    }

    fn needs(&self, model: Option<&StoredModel>, share: &MemoryShare) -> MemoryNeeds {
        let size = model.map(StoredModel::stored_size).unwrap_or_default();
        let has_adapters = model.is_some_and(|model| model.has_adapters);
        let adapter_bytes = if has_adapters { self.options.adapter_bytes } else { 0 };
        let options = WorkerOptions { adapter_bytes, ..self.options.clone() };
        // Where there is a GPU, workers compute on it.
        MemoryNeeds::of_stored(&options, share, size, cfg!(target_os = "macos"))
    }
}

impl Grant {
    /// As much as there may be, and nothing of it is reserved.
    pub(super) const UNLIMITED: Self = Self { share: MemoryShare::UNLIMITED, reserved: 0, is_known: true };

    /// What the store says of the model is known now.
    pub(super) fn learn(&mut self, budget: &MemoryBudget, model: Option<&StoredModel>) {
        if !self.is_known
            && is_known(model)
            && let Ok(reserved) = budget.reserve(model, &self.share)
        {
            (self.reserved, self.is_known) = (reserved, true);
        }
    }

    /// A worker serves, and says what it takes. The next processes get the same.
    pub(super) fn settle(&mut self, info: &ModelInfo) {
        let &ModelInfo { weight_bytes, kv_bytes, other_bytes, .. } = info;
        let workers = u64::from(self.share.workers);
        self.reserved =
            kv_bytes.saturating_add(other_bytes).saturating_mul(workers).saturating_add(weight_bytes);
        self.is_known = true;
        self.share = MemoryShare { left_bytes: self.reserved, leaves_room: false, ..self.share };
    }
}

fn is_known(model: Option<&StoredModel>) -> bool {
    model.is_some_and(|model| model.weight_bytes > 0)
}

/// Memory of the machine, or of the container if it has less. `None` where the system does not tell.
fn machine_memory() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let container = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    Some(system.total_memory().min(container)).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests;
