//! Which worker serves which model: loads and unloads models, and keeps their workers running.

mod context;
#[cfg(test)]
pub(crate) mod fixtures;
mod lifecycle;
mod metrics;
mod model;
mod models;
mod registry;
mod restart;
mod route;
mod status;
mod supervisor;
mod worker_task;

pub use self::{
    metrics::FleetMetrics,
    models::{ModelError, Models},
    registry::ModelRegistry,
    route::{Route, RouteError},
    status::{ModelState, ModelStatus, WorkerStatus, WorkerWork},
};
