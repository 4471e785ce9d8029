//! What is needed to start worker processes.

use std::{
    io,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use protocol::{
    ids::Incarnation,
    options::WorkerOptions,
    shm::{NoRuntimeDir, RuntimeDir, runtime_dir},
};

use super::metrics::WorkerMetrics;
use crate::config::Config;

/// What every worker process needs; one for all workers of all models.
#[derive(Debug)]
pub struct WorkerLauncher {
    pub(crate) config: Config,
    pub(crate) metrics: WorkerMetrics,
    /// The options of every worker.
    pub(crate) options: WorkerOptions,
    pub(super) binary: PathBuf,
    pub(super) dir: RuntimeDir,
    next_incarnation: AtomicU64,
    descriptors: Mutex<()>,
}

/// Why no worker can be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No place for sockets and segments.
    #[error("can't start workers; set XDG_RUNTIME_DIR or TMPDIR to a folder that only you can enter")]
    RuntimeDir(#[source] NoRuntimeDir),
    /// The default worker can't be located.
    #[error("can't find this program's own folder to look for kr-worker in it; use --worker-bin")]
    OwnPath(#[source] io::Error),
    /// There is no worker to run.
    #[error("there is no worker at {}; build or install kr-worker, or name it with --worker-bin", .0.display())]
    NoBinary(PathBuf),
}

impl WorkerLauncher {
    /// Finds the worker's executable and makes the folder where gateway and workers meet.
    pub fn new(config: &Config, metrics: WorkerMetrics) -> Result<Self, LaunchError> {
        Ok(Self {
            config: config.clone(),
            options: config.worker_options(),
            binary: worker_binary(config)?,
            dir: runtime_dir().map_err(LaunchError::RuntimeDir)?,
            metrics,
            next_incarnation: AtomicU64::new(1),
            descriptors: Mutex::default(),
        })
    }

    /// Held while a descriptor is made that workers must not inherit, and while a worker is started. On macOS a
    /// descriptor can't be made close-on-exec at once but only a moment later, and a process that is started in between
    /// would get it. Connections that are accepted meanwhile are not covered: a worker that inherits one keeps it open
    /// until the worker ends, and does nothing with it. A worker can hold only connections that are older than itself,
    /// so workers never keep each other alive.
    pub(super) fn descriptors(&self) -> MutexGuard<'_, ()> {
        self.descriptors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a process that is about to be started. No other process has had it.
    pub(super) fn next_incarnation(&self) -> Incarnation {
        Incarnation(self.next_incarnation.fetch_add(1, Ordering::Relaxed))
    }
}

fn worker_binary(config: &Config) -> Result<PathBuf, LaunchError> {
    let binary = match &config.workers.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe().map_err(LaunchError::OwnPath)?.with_file_name("kr-worker"),
    };
    if binary.is_file() { Ok(binary) } else { Err(LaunchError::NoBinary(binary)) }
}
