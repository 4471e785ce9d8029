//! The gateway: HTTP in front, workers behind.
//!
//! It opens no model file and links no MLX: whatever MLX does to a process, it does to a worker. A
//! request's way, one module a stage:
//!
//! ```text
//! accept   http::openai       JSON ─► GenerateRequest; another dialect is another folder
//! admit    serve::admission   Permit | Rejection, before any response header
//! route    fleet::registry    the model's least loaded ready worker
//! batch    worker::batcher    Submissions ─► Batch
//! ship     worker::link       Batch ─► frame ─► shared memory ─► worker
//! deliver  worker::streams    events ─► their Stream, within its credit
//! respond  http::stream       Generation ─► the dialect's events; the body owns the Permit
//! ```
//!
//! Layers, top to bottom: [`http`], [`serve`], [`fleet`], [`worker`], [`config`]. A lower layer never names a higher
//! one. Beside them: [`shutdown`] ends everything in order; [`telemetry`] has logs and traces.
//!
//! Modules from the top layer down.

pub mod http;

pub mod serve;

pub mod fleet;

pub mod worker;

pub mod cli;
pub mod config;

pub mod metrics;
pub mod shutdown;
pub mod telemetry;

#[cfg(test)]
mod error_tests;
