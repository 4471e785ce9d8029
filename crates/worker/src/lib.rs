//! The model process: receive → prepare → schedule → step → emit, one module a stage.
//!
//! Threads: one reads the link ([`link`]), a few prepare prompts ([`prepare`]), one sends heartbeats, and
//! the main thread owns everything of MLX and runs the [`engine`]. They meet in three places: a bounded
//! queue into the preparation, a bounded [`Inbox`](engine::Inbox) into the engine, and the
//! [`Registry`](requests::Registry), where a request's cancellation and credit can be set at any time.

mod backend;
pub mod cache;
pub mod cli;
pub mod emit;
pub mod engine;
pub mod link;
pub mod model;
pub mod prepare;
pub mod requests;
pub mod sampling;
pub mod scheduler;
pub mod startup;
pub mod verify;
