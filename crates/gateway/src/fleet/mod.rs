//! Which worker serves which model: loads and unloads models, and keeps their workers running.

mod lifecycle;
mod models;
mod registry;
mod supervisor;
mod worker_task;

pub use self::{
    models::{ModelError, Models},
    registry::{ModelRegistry, ModelState, ModelStatus, Route, RouteError, WorkerStatus, WorkerWork},
    supervisor::Supervisor,
};
