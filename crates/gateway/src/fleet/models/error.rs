//! Why nothing came of what was asked for.

use std::time::Duration;

use protocol::{memory::Shortage, message::Failure};

use crate::fleet::route::RouteError;

/// Why a model was not loaded or unloaded, or a worker not restarted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No worker could load it.
    #[error("the model `{model}` could not be loaded: {}", failure.message)]
    Failed {
        /// Its name.
        model: String,
        /// The failure of its last worker.
        failure: Failure,
    },
    /// As many are loaded as may be.
    #[error(
        "{max} models are loaded, as many as `models.max_loaded` allows; unload one of {} first, with \
         POST /v1/models/NAME/unload", loaded.join(", ")
    )]
    TooMany {
        /// The limit.
        max: usize,
        /// The names of those that are loaded, in quotes.
        loaded: Vec<String>,
    },
    /// It is loaded with another number of workers.
    #[error(
        "the model `{model}` is loaded already, with {workers} worker(s); unload it first to change that"
    )]
    OtherWorkers {
        /// Its name.
        model: String,
        /// How many it has.
        workers: usize,
    },
    /// It is being unloaded.
    #[error("the model `{0}` is being unloaded; load it again when that is done")]
    Unloading(String),
    /// Somebody unloaded it before it was ready.
    #[error("the model `{0}` was unloaded before it was ready")]
    Unloaded(String),
    /// It is not loaded.
    #[error(transparent)]
    NotLoaded(RouteError),
    /// It has no such worker, or there is no such model.
    #[error("there is no worker `{worker}`; this server has {known}")]
    UnknownWorker {
        /// What was asked for.
        worker: String,
        /// What there is, for people.
        known: String,
    },
    /// Somebody else restarts it.
    #[error("the worker `{0}` is being restarted already; try again when that is done")]
    Restarting(String),
    /// Its new process died before it served.
    #[error(
        "the worker `{worker}` was restarted and does not serve: {}; it is started again after a while",
        failure.message
    )]
    NotRestarted {
        /// The worker.
        worker: String,
        /// Why the process died.
        failure: Failure,
    },
    /// It took too long, and goes on.
    #[error("`{what}` was not restarted within {} s; that goes on, and /readyz shows how far it is", after.as_secs_f32())]
    NotRestartedYet {
        /// The model or the worker.
        what: String,
        /// The time that was given.
        after: Duration,
    },
    /// As many are loaded as may be, and all of them were in use for as long as a request may wait.
    #[error(
        "there is no room for the model `{model}`: {max} models are loaded, as many as `models.max_loaded` allows, and \
         none of them became idle within {} s; try again later", waited.as_secs_f32()
    )]
    NoRoom {
        /// Its name.
        model: String,
        /// The limit.
        max: usize,
        /// For how long the request waited.
        waited: Duration,
    },
    /// It has to leave before it can be loaded again, and had requests to finish for as long as another may wait.
    #[error(
        "the model `{model}` is being unloaded, and is not done with its requests after {} s; try again later",
        waited.as_secs_f32()
    )]
    StillUnloading {
        /// Its name.
        model: String,
        /// For how long the request waited.
        waited: Duration,
    },
    /// It does not fit into the memory that workers may use, even if nothing else were loaded.
    #[error("the model `{model}` can't be loaded: {shortage}")]
    TooLarge {
        /// Its name.
        model: String,
        /// What it needs, and what there is.
        shortage: Shortage,
    },
    /// It does not fit beside those that are loaded.
    #[error("the model `{model}` can't be loaded beside {}: {shortage}", loaded.join(", "))]
    NoMemory {
        /// Its name.
        model: String,
        /// What it needs, and what is left.
        shortage: Shortage,
        /// The names of those that are loaded, in quotes, and what they have.
        loaded: Vec<String>,
    },
    /// It does not fit beside those that are in use, and they were for as long as a request may wait.
    #[error(
        "there is no memory for the model `{model}` next to the models in use, and none of those became idle within {} s; \
         try again later: {shortage}", waited.as_secs_f32()
    )]
    NoMemoryYet {
        /// Its name.
        model: String,
        /// What it needs, and what is left.
        shortage: Shortage,
        /// For how long the request waited.
        waited: Duration,
    },
    /// As many requests wait for models as may.
    #[error("{0} requests wait for models to be loaded already; try again later")]
    Crowded(usize),
    /// Whether the model is stored is not known.
    #[error("the list of stored models can't be read; the server's log says why")]
    StoreUnreadable,
    /// The gateway is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}
