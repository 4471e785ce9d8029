//! What the tasks of all models and workers share.

use std::sync::{Arc, atomic::AtomicUsize};

use super::{metrics::FleetMetrics, registry::ModelRegistry};
use crate::worker::WorkerLauncher;

/// One for all models.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) launcher: Arc<WorkerLauncher>,
    pub(super) registry: Arc<ModelRegistry>,
    pub(super) metrics: FleetMetrics,
    /// Models that may be loaded at the same time.
    pub(super) max_loaded: AtomicUsize,
}
