//! The gateway: HTTP in front, workers behind.
//!
//! It opens no model file and links no MLX: whatever MLX does to a process, it does to a worker. A
//! request's way, one module a stage:
//!
//! ```text
//! accept   http        JSON ─► checked request
//! admit    admission   Permit | Rejection, before any response header
//! route    router      the model's least loaded ready worker
//! batch    batcher     Submissions ─► Batch
//! ship     link        Batch ─► frame ─► shared memory ─► worker
//! deliver  streams     events ─► their Stream, within its credit
//! respond  http::sse   Stream ─► server-sent events; the body owns the Permit
//! ```
//!
//! Beside the way: [`models`] loads and unloads models, [`supervisor`] keeps a model's workers running,
//! [`shutdown`] ends everything in order.
//!
//! Modules in reading order.

pub mod cli;
pub mod config;

pub mod http;

pub mod admission;
pub mod router;

pub mod batcher;
pub mod link;
pub mod outbox;
pub mod streams;

pub mod models;
pub mod supervisor;

pub mod metrics;
pub mod shutdown;
pub mod telemetry;

#[cfg(test)]
mod error_tests;
