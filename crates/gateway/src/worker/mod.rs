//! One worker process and its wire. Knows neither the models that are served nor HTTP.

pub mod batcher;
mod environment;
mod events;
mod id;
mod launcher;
pub mod link;
mod listener;
pub mod outbox;
mod process;
pub mod streams;

pub use self::{
    events::{Event, EventKind, EventSender, ProcessEvent},
    id::{WorkerId, WorkerState},
    launcher::{LaunchError, WorkerLauncher},
    listener::{JoinError, Joined, WorkerListener},
    process::WorkerProcess,
};
