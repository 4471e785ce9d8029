//! One worker process and its wire. Knows neither the models that are served nor HTTP.

pub mod batcher;
mod environment;
mod event;
mod id;
mod launcher;
pub mod link;
mod listener;
pub mod load;
pub mod loss;
mod mailbox;
mod metrics;
pub mod operations;
pub mod outbox;
mod process;
mod stored;
pub mod streams;

pub use self::{
    event::{EventSender, WorkerEvent},
    id::{WorkerId, WorkerState},
    launcher::{LaunchError, WorkerLauncher},
    listener::{JoinError, Joined, WorkerListener},
    metrics::{BatchMetrics, LinkMetrics, StreamMetrics, Traffic, WorkerLabel, WorkerMetrics},
    process::WorkerProcess,
    stored::{ListError, list_stored},
};
