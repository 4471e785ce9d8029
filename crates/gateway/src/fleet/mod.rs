//! Which worker serves which model: loads and unloads models, when they are asked to or when requests need it, and keeps
//! their workers running.

mod adapter;
mod context;
mod demand;
mod evict;
#[cfg(test)]
pub(crate) mod fixtures;
mod inventory;
mod lifecycle;
mod memory;
mod metrics;
mod model;
mod models;
mod registry;
mod restart;
mod route;
mod status;
mod stored;
mod supervisor;
mod usage;
mod worker_task;

pub use self::{
    adapter::Target,
    metrics::FleetMetrics,
    models::{ModelError, Models},
    registry::ModelRegistry,
    route::{Route, RouteError, RouteRequest},
    status::{ModelState, ModelStatus, WorkerStatus, WorkerWork},
    usage::InUse,
};
