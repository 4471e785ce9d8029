//! Keeps a model's workers running: `state` decides, `process` acts, one task a worker connects both.

use std::sync::{Arc, Mutex, PoisonError};

use protocol::message::{Failure, FailureKind};
use tokio::{sync::watch, task::JoinSet};
use tracing::error;

use super::{registry::ModelRegistry, worker_task::WorkerTask};
use crate::worker::{WorkerId, WorkerLauncher};

/// All workers of one model.
pub struct Supervisor {
    workers: Vec<WorkerId>,
    setup: Arc<WorkerLauncher>,
    tasks: JoinSet<()>,
    startup: watch::Receiver<Startup>,
    drain: watch::Sender<bool>,
}

/// How far the first start has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Startup {
    /// No worker has served yet, and not all have failed.
    Starting,
    /// One has.
    Served,
    /// Every worker's first life failed: this was the last one's failure.
    Failed(Failure),
}

impl Supervisor {
    /// Starts `count` workers of `model`, which `router` knows already. Needs a runtime.
    pub fn start(
        setup: &Arc<WorkerLauncher>,
        router: &Arc<ModelRegistry>,
        model: &str,
        count: usize,
    ) -> Self {
        let (drain, draining) = watch::channel(false);
        let (startup_sender, startup) = watch::channel(Startup::Starting);
        let first_lives = Arc::new(StartupTracker { left: Mutex::new(count), startup: startup_sender });
        let model: Arc<str> = model.into();
        let workers: Vec<_> =
            (0..count).map(|number| WorkerId { model: Arc::clone(&model), number }).collect();
        let mut tasks = JoinSet::new();
        for worker in &workers {
            let care = WorkerTask::new(worker.clone(), setup, router, &first_lives);
            tasks.spawn(care.run(draining.clone()));
        }
        Self { workers, setup: Arc::clone(setup), tasks, startup, drain }
    }

    /// Returns once a worker serves, or the last one's failure once all have failed to.
    pub async fn wait_ready(&mut self) -> Result<(), Failure> {
        let settled = self.startup.wait_for(|s| *s != Startup::Starting).await;
        match settled.as_deref() {
            Ok(Startup::Failed(failure)) => Err(failure.clone()),
            Ok(_) => Ok(()),
            Err(_) => {
                let message = "the supervisor of its workers ended".into();
                Err(Failure { kind: FailureKind::Internal, param: None, message })
            }
        }
    }

    /// Lets every worker finish its streams and exit. Returns when all are gone.
    pub async fn drain(mut self) {
        self.drain.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "the supervision of a worker failed");
            }
        }
        for worker in &self.workers {
            self.setup.metrics.forget_worker(worker);
        }
    }
}

/// Counts workers whose first life failed.
pub(super) struct StartupTracker {
    left: Mutex<usize>,
    startup: watch::Sender<Startup>,
}

impl StartupTracker {
    pub(super) fn served(&self) {
        self.startup.send_replace(Startup::Served);
    }

    pub(super) fn failed(&self, failure: Failure) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.startup.send_if_modified(|startup| {
                let all_failed = *startup == Startup::Starting;
                if all_failed {
                    *startup = Startup::Failed(failure);
                }
                all_failed
            });
        }
    }
}
