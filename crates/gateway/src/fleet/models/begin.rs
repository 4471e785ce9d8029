//! Whether a model may be loaded when an administrator asks for it. It never makes another one leave.

use protocol::memory::Bytes;
use tokio::sync::watch;

use super::ModelError;
use crate::fleet::{
    memory::{Grant, MemoryBudget},
    model::{Model, Phase},
    registry::Table,
    restart::RestartOrders,
    stored::Listing,
};

/// What loading a model takes.
pub(super) enum Begun {
    /// It is loaded, or another request loads it.
    Already { name: String, phases: watch::Receiver<Phase> },
    /// It was added to the table, and needs a supervisor, whose workers receive these.
    New { orders: Vec<RestartOrders>, phases: watch::Receiver<Phase> },
    /// How much memory is left is known when the model that has these has been loaded.
    After(watch::Receiver<Phase>),
}

/// What limits the models that are loaded.
pub(super) struct Limits<'a> {
    /// Workers of a model of which nothing else is said.
    pub(super) default_workers: usize,
    pub(super) max_loaded: usize,
    pub(super) memory: &'a MemoryBudget,
    /// What is known of the models.
    pub(super) stored: &'a Listing,
}

/// Decides whether the model with this name or digest may be loaded, and adds it to the table if it is not there.
pub(super) fn begin(
    table: &mut Table,
    id: &str,
    workers: Option<usize>,
    limits: &Limits<'_>,
) -> Result<Begun, ModelError> {
    let max_loaded = limits.max_loaded;
    if *table.closed().borrow() {
        return Err(ModelError::ShuttingDown);
    }
    if let Some(model) = table.find_loaded(id) {
        return already(model, workers);
    }
    // No name has them, and they would end up in logs.
    if id.chars().any(char::is_control) {
        return Err(ModelError::NotLoaded(table.unknown(id)));
    }
    if table.loaded().count() >= max_loaded {
        let mut loaded: Vec<_> = table.loaded().map(|model| format!("`{}`", model.name)).collect();
        loaded.sort();
        return Err(ModelError::TooMany { max: max_loaded, loaded });
    }
    if let Some(phases) = table.unknown_size() {
        return Ok(Begun::After(phases));
    }
    let workers = workers.unwrap_or(limits.default_workers);
    let grant = grant(table, id, workers, limits)?;
    let (phases, orders) = table.add(id, workers);
    table.grant(id, grant);
    Ok(Begun::New { orders, phases })
}

fn already(model: &Model, workers: Option<usize>) -> Result<Begun, ModelError> {
    let name = model.name.clone();
    if model.is_leaving() {
        return Err(ModelError::Unloading(name));
    }
    if workers.is_some_and(|workers| workers != model.worker_count()) {
        return Err(ModelError::OtherWorkers { model: name, workers: model.worker_count() });
    }
    Ok(Begun::Already { name, phases: model.phases() })
}

/// What of the memory it gets.
fn grant(table: &Table, id: &str, workers: usize, limits: &Limits<'_>) -> Result<Grant, ModelError> {
    let Limits { memory, stored, max_loaded, .. } = limits;
    let model = stored.sized(id);
    let model = model.as_deref();
    if let Err(shortage) = memory.least(model, workers) {
        return Err(ModelError::TooLarge { model: id.to_owned(), shortage });
    }
    let is_last = !memory.expects_more(table.loaded().count() + 1, *max_loaded);
    let granted = memory.grant(model, table.reserved(), workers, is_last);
    granted.map_err(|shortage| {
        let with_size = |model: &Model| format!("`{}` ({})", model.name, Bytes(model.memory().reserved));
        let mut loaded: Vec<_> = table.loaded().map(with_size).collect();
        loaded.sort();
        ModelError::NoMemory { model: id.to_owned(), shortage, loaded }
    })
}
