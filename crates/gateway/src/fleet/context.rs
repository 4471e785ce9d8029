//! What the tasks of all models and workers share.

use std::sync::{Arc, atomic::AtomicUsize};

use tokio::sync::{Mutex, Semaphore};

use super::{memory::MemoryBudget, metrics::FleetMetrics, registry::ModelRegistry, stored::StoredModels};
use crate::worker::WorkerLauncher;

/// One for all models.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) launcher: Arc<WorkerLauncher>,
    pub(super) registry: Arc<ModelRegistry>,
    pub(super) metrics: FleetMetrics,
    /// Models that may be loaded at the same time.
    pub(super) max_loaded: AtomicUsize,
    /// What their workers may use.
    pub(super) memory: MemoryBudget,
    pub(super) stored: StoredModels,
    /// Requests that may wait for a model.
    pub(super) waiting: Semaphore,
    /// Held by the request that makes room for its model: others that need room come after it, in their order.
    pub(super) room: Mutex<()>,
}

impl Context {
    pub(super) fn new(launcher: WorkerLauncher, registry: Arc<ModelRegistry>, metrics: FleetMetrics) -> Self {
        let launcher = Arc::new(launcher);
        Self {
            stored: StoredModels::new(Arc::clone(&launcher)),
            memory: MemoryBudget::new(&launcher.config, launcher.options.clone()),
            max_loaded: AtomicUsize::new(launcher.config.max_loaded),
            waiting: Semaphore::new(launcher.config.stream_registry.max_waiting),
            room: Mutex::new(()),
            launcher,
            registry,
            metrics,
        }
    }
}
