//! What all lives of all workers need alike, and what tells workers apart.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use protocol::{
    ids::Incarnation,
    shm::{RuntimeDir, runtime_dir},
};

use crate::{config::Config, metrics::Metrics};

/// What every life needs; one for all workers of all models.
#[derive(Debug)]
pub struct Setup {
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    pub(super) binary: PathBuf,
    pub(super) dir: RuntimeDir,
    lives: AtomicU64,
}

/// Which worker of which model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId {
    /// The name or digest under which the model was loaded.
    pub model: Arc<str>,
    /// Its number among the model's workers, from 0.
    pub number: usize,
}

/// Why no worker can be started.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No place for sockets and segments.
    #[error("can't make a folder for sockets and shared memory: {0}")]
    RuntimeDir(#[source] io::Error),
    /// The default worker can't be located.
    #[error("can't find this program's own folder to look for kr-worker in it: {0}; use --worker-bin")]
    OwnPath(#[source] io::Error),
    /// There is no worker to run.
    #[error("there is no worker at {}; build or install kr-worker, or name it with --worker-bin", .0.display())]
    NoBinary(PathBuf),
}

impl Setup {
    /// Finds the worker's executable and makes the folder where gateway and workers meet.
    pub fn new(config: &Config, metrics: &Arc<Metrics>) -> Result<Self, SetupError> {
        Ok(Self {
            config: config.clone(),
            binary: worker_binary(config)?,
            dir: runtime_dir().map_err(SetupError::RuntimeDir)?,
            metrics: Arc::clone(metrics),
            lives: AtomicU64::new(1),
        })
    }

    /// Of the life that begins now; no other has had it.
    pub(super) fn next_incarnation(&self) -> Incarnation {
        Incarnation(self.lives.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.model, self.number)
    }
}

fn worker_binary(config: &Config) -> Result<PathBuf, SetupError> {
    let binary = match &config.workers.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe().map_err(SetupError::OwnPath)?.with_file_name("kr-worker"),
    };
    if binary.is_file() { Ok(binary) } else { Err(SetupError::NoBinary(binary)) }
}
