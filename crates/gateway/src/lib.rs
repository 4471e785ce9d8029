//! The gateway: HTTP in front, workers behind.
//!
//! It opens no model file and links no MLX: if MLX aborts a process, that is a worker. A
//! request passes these stages, one module each:
//!
//! ```text
//! accept   http::openai      JSON ─► GenerateRequest; another dialect is another folder
//! admit    serve::admission  Permit | Rejection, before any response header
//! route    fleet::route      the model's least loaded ready worker
//! batch    worker::batcher   Submissions ─► Batch
//! ship     worker::link      Batch ─► frame ─► shared memory ─► worker
//! deliver  worker::streams   events ─► their Stream, within its credit
//! respond  http::stream      Generation ─► the dialect's events; the body owns the Permit
//! ```
//!
//! Layers, top to bottom: [`http`], [`serve`], [`fleet`], [`worker`], [`config`]. A lower layer never names a higher
//! one. Above them, [`assembly`] puts a gateway together on the threads of [`runtime`], [`reload`] gives it
//! another configuration, and [`shutdown`] ends it in order. Below them, [`metrics`] is
//! where each registers what it measures.

pub mod assembly;
pub mod reload;
pub mod runtime;
pub mod shutdown;

pub mod http;

pub mod serve;

pub mod fleet;

pub mod worker;

pub mod config;

pub mod cli;
pub mod metrics;
pub mod trace;

#[cfg(test)]
mod error_tests;
