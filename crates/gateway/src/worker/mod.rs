//! One worker process and its wire. Knows neither the models that are served nor HTTP.

pub mod batcher;
mod environment;
mod event;
mod id;
mod launcher;
pub mod link;
mod listener;
pub mod loss;
mod mailbox;
mod metrics;
pub mod outbox;
mod process;
pub mod streams;

pub use self::{
    event::{EventSender, WorkerEvent},
    id::{WorkerId, WorkerState},
    launcher::{LaunchError, WorkerLauncher},
    listener::{JoinError, Joined, WorkerListener},
    metrics::{LinkMetrics, StreamMetrics, WorkerLabel, WorkerMetrics},
    process::WorkerProcess,
};
