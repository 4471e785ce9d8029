//! Keeps a model's workers running, with one task for each: `lifecycle` decides, the task acts.

use std::sync::Arc;

use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
};
use tracing::error;

use super::{context::Context, restart::RestartOrders, worker_task::WorkerTask};
use crate::worker::WorkerId;

/// All workers of one model.
pub(super) struct Supervisor {
    context: Arc<Context>,
    workers: Vec<WorkerId>,
    tasks: JoinSet<()>,
    drain: watch::Sender<bool>,
}

impl Supervisor {
    /// Starts a worker of `model`, which the registry has already, for each of `restarts`. Needs a runtime.
    pub(super) fn start(context: &Arc<Context>, model: &str, restarts: Vec<RestartOrders>) -> Self {
        let (drain, draining) = watch::channel(false);
        let model: Arc<str> = model.into();
        let workers: Vec<_> =
            (0..restarts.len()).map(|number| WorkerId { model: Arc::clone(&model), number }).collect();
        let mut tasks = JoinSet::new();
        for (worker, restarts) in workers.iter().zip(restarts) {
            tasks.spawn(WorkerTask::new(worker.clone(), context).run(draining.clone(), restarts));
        }
        Self { context: Arc::clone(context), workers, tasks, drain }
    }

    /// Returns when all tasks have ended. Unless [`Supervisor::drain`] asked them to, they do only if they fail.
    pub(super) async fn ended(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            log_failure(ended);
        }
    }

    /// Lets every worker finish its streams and exit. Returns when all are gone.
    pub(super) async fn drain(mut self) {
        self.drain.send_replace(true);
        self.ended().await;
        for worker in &self.workers {
            self.context.metrics.forget_worker(worker);
            self.context.launcher.metrics.forget_worker(worker);
        }
    }
}

fn log_failure(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "the supervision of a worker failed");
    }
}
