//! The model process: receive → prepare → schedule → step → emit, one module a stage.
//!
//! Threads: one reads the link ([`link`]), a few prepare prompts ([`prepare`]), one sends heartbeats, one computes masks
//! once an output is constrained ([`constraint`]), and the main thread owns everything of MLX and runs the [`engine`]; a
//! few help it to [`sample`]. They meet in three places: a bounded queue into the preparation, a bounded
//! [`EngineMessage`](engine::EngineMessage) into the engine, and the [`RequestTable`](requests::RequestTable), where a
//! request's cancellation and credit can be set at any time.
//!
//! Modules depend on each other in one direction: [`startup`], [`link`], [`prepare`], [`engine`], and below it
//! [`schedule`], [`sample`], [`adapters`], [`model`], [`constraint`], [`requests`], [`request_trace`] and [`report_sink`], which know
//! none of the others, but that [`sample`] knows the mask of a [`constraint`]. [`list_models`] is another program in the
//! same executable.

pub mod adapters;
pub mod average;
mod backend;
pub mod cache;
pub mod cli;
pub mod constraint;
pub mod engine;
pub mod link;
pub mod list_models;
pub mod memory;
pub mod model;
pub mod options;
pub mod prefix_store;
pub mod prepare;
pub mod report_sink;
pub mod request_trace;
pub mod requests;
pub mod sample;
pub mod schedule;
pub mod speculate;
pub mod startup;
#[cfg(test)]
mod testing;
pub mod verify;
