//! Restarts workers: one of them, or all of a model's one after the other.

use std::{future::Future, time::Duration};

use tokio::time::timeout;
use tracing::info;

use super::{ModelError, Models};
use crate::{
    fleet::{
        model::Model,
        registry::Table,
        restart::{RestartError, RestartTurn},
        status::{ModelStatus, WorkerStatus},
    },
    worker::WorkerId,
};

/// A restart that nobody else can begin.
type Reserved = (WorkerId, RestartTurn);

impl Models {
    /// Ends the process of the worker with this name (`MODEL/NUMBER`) and starts another at once. Its streams may go on
    /// for `finish`; those that are left go on elsewhere. Returns when the new process serves, or after `limit`.
    /// Dropping the future stops waiting, not the restart.
    ///
    /// # Errors
    /// There is no such worker, somebody else restarts it, or its new process does not serve, or not yet.
    pub async fn restart(
        &self,
        worker: &str,
        finish: Duration,
        limit: Option<Duration>,
    ) -> Result<WorkerStatus, ModelError> {
        let reserved = reserve_one(&self.context.registry.write(), worker)?;
        let id = reserved.0.clone();
        within(limit, worker, self.carry_out(reserved, finish)).await?;
        let mut workers = self.context.registry.workers().into_iter();
        let status = workers.find(|status| *status.model == *id.model && status.worker == id.number);
        status.ok_or_else(|| ModelError::Unloaded(id.model.to_string()))
    }

    /// Restarts the workers of the model with this name or digest one after the other, so that they load what the name
    /// stands for now. Streams may go on for `finish` on each old process, or for as long as at a shutdown. Returns when
    /// all serve, or after `limit`. The first that does not ends it; dropping the future does not.
    ///
    /// # Errors
    /// The model is not loaded, somebody else restarts one of its workers, or one does not serve, or not yet.
    pub async fn reload(
        &self,
        id: &str,
        finish: Option<Duration>,
        limit: Option<Duration>,
    ) -> Result<ModelStatus, ModelError> {
        let (name, reserved) = reserve_all(&self.context.registry.write(), id)?;
        info!(model = name, workers = reserved.len(), "reloading");
        let finish = finish.unwrap_or(self.context.launcher.config.server.drain_timeout);
        let models = self.clone();
        let reloading = tokio::spawn(async move {
            for one in reserved {
                models.carry_out(one, finish).await?;
            }
            Ok(())
        });
        // It is aborted by nobody, so an error is a panic.
        let ended = async { reloading.await.unwrap_or_else(|_| Err(ModelError::Unloaded(name.clone()))) };
        within(limit, &name, ended).await?;
        self.context.registry.model(&name).ok_or(ModelError::Unloaded(name))
    }

    async fn carry_out(&self, (worker, turn): Reserved, finish: Duration) -> Result<(), ModelError> {
        turn.restart(finish).await.map_err(|error| match error {
            RestartError::Failed(failure) => ModelError::NotRestarted { worker: worker.to_string(), failure },
            RestartError::Stopped => stopped(&self.context.registry.write(), worker.model.to_string()),
        })
    }
}

/// Returns what `restart` does, if that takes no longer than `limit`. It goes on in any case.
async fn within<T>(
    limit: Option<Duration>,
    what: &str,
    restart: impl Future<Output = Result<T, ModelError>>,
) -> Result<T, ModelError> {
    match limit {
        None => restart.await,
        Some(after) => timeout(after, restart)
            .await
            .unwrap_or_else(|_| Err(ModelError::NotRestartedYet { what: what.to_owned(), after })),
    }
}

/// The right to restart the worker with this name.
fn reserve_one(table: &Table, worker: &str) -> Result<Reserved, ModelError> {
    let found = worker.rsplit_once('/').and_then(|(model, number)| {
        let (model, number) = (table.find_loaded(model)?, number.parse().ok()?);
        (number < model.worker_count()).then_some((model, number))
    });
    let Some((model, number)) = found else {
        return Err(ModelError::UnknownWorker { worker: worker.to_owned(), known: known_workers(table) });
    };
    check(table, model)?;
    reserve(model, number)
}

/// The right to restart each worker of the model with this name or digest, and its name.
fn reserve_all(table: &Table, id: &str) -> Result<(String, Vec<Reserved>), ModelError> {
    let model = table.find_loaded(id).ok_or_else(|| ModelError::NotLoaded(table.unknown(id)))?;
    check(table, model)?;
    let all = (0..model.worker_count()).map(|number| reserve(model, number));
    Ok((model.name.clone(), all.collect::<Result<_, _>>()?))
}

/// Whether the model's workers are to live on.
fn check(table: &Table, model: &Model) -> Result<(), ModelError> {
    if model.is_leaving() || *table.closed().borrow() {
        return Err(stopped(table, model.name.clone()));
    }
    Ok(())
}

fn reserve(model: &Model, number: usize) -> Result<Reserved, ModelError> {
    let worker = WorkerId { model: model.name.as_str().into(), number };
    match model.reserve_restart(number) {
        Some(turn) => Ok((worker, turn)),
        None => Err(ModelError::Restarting(worker.to_string())),
    }
}

/// Why workers of the model are not restarted any more.
fn stopped(table: &Table, model: String) -> ModelError {
    if *table.closed().borrow() { ModelError::ShuttingDown } else { ModelError::Unloading(model) }
}

/// For people.
fn known_workers(table: &Table) -> String {
    let workers = table
        .loaded()
        .flat_map(|model| (0..model.worker_count()).map(move |number| format!("`{}/{number}`", model.name)));
    let workers: Vec<_> = workers.collect();
    if workers.is_empty() { "no workers".to_owned() } else { workers.join(", ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::fleet::fixtures::failure;

    fn named(reserved: Result<Reserved, ModelError>) -> Result<String, ModelError> {
        reserved.map(|(worker, _)| worker.to_string())
    }

    #[test]
    fn workers_are_found_by_the_name_of_their_model_and_their_number() {
        let mut table = Table::default();
        table.add("org/m", 2);
        table.add("failed", 1);
        table.end("failed", Some(failure("no")));
        assert_eq!(named(reserve_one(&table, "org/m/1")), Ok("org/m/1".into()));
        for unknown in ["org/m/2", "org/m", "org/m/x", "org/m/-1", "m/0", "/0", "failed/0", ""] {
            let known = "`org/m/0`, `org/m/1`".to_owned();
            let error = ModelError::UnknownWorker { worker: unknown.into(), known };
            assert_eq!(named(reserve_one(&table, unknown)), Err(error));
        }
        assert!(matches!(reserve_all(&table, "failed"), Err(ModelError::NotLoaded(_))));
    }

    #[test]
    fn a_worker_is_restarted_by_one_at_a_time_whether_alone_or_with_others() {
        let mut table = Table::default();
        table.add("m", 2);
        let restarting = |number| ModelError::Restarting(format!("m/{number}"));
        let one = reserve_one(&table, "m/1").unwrap();
        assert_eq!(named(reserve_one(&table, "m/1")), Err(restarting(1)));
        assert_eq!(reserve_all(&table, "m").err(), Some(restarting(1)));
        assert!(reserve_one(&table, "m/0").is_ok(), "the attempt on all of them left nothing behind");
        drop(one);
        let (name, all) = reserve_all(&table, "m").unwrap();
        assert_eq!((name.as_str(), all.len()), ("m", 2));
        assert_eq!(named(reserve_one(&table, "m/0")), Err(restarting(0)));
    }

    #[test]
    fn what_is_about_to_end_is_not_restarted() {
        let mut table = Table::default();
        table.add("m", 1);
        table.drain("m");
        assert_eq!(named(reserve_one(&table, "m/0")), Err(ModelError::Unloading("m".into())));
        assert_eq!(reserve_all(&table, "m").err(), Some(ModelError::Unloading("m".into())));
        table.add("other", 1);
        table.close();
        assert_eq!(named(reserve_one(&table, "other/0")), Err(ModelError::ShuttingDown));
    }
}
