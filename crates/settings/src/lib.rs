//! The schema of `config/runtime.yaml`: its keys, their types, ranges and defaults.
//!
//! Every program that reads the file reads it with this crate, so a value means the same to all of them, and a mistake
//! is reported in the same words: with the file, the line and the key. A program may use only a part of the settings,
//! but the whole file is always checked.
//!
//! To add a key: add a field to its section in `schema.rs` with its range, its default to `defaults.rs`, and both to
//! `config/runtime.yaml`. A test compares that file with the defaults.

mod defaults;
mod error;
mod file;
mod lines;
mod schema;
mod size;
mod value;

pub use self::{
    error::SettingsError,
    file::{DEFAULT_FILE, File},
    schema::{
        Activations, AdaptiveLimits, BatchQueue, Cache, Cpu, KvType, LogFormat, MAX_WORKERS, Memory, Models,
        OnDemand, Operations, PrefixCache, REQUEST_MEMORY_FACTOR, RateLimits, Server, Settings, Speculation,
        StreamRegistry, Telemetry, Tls, Verify, Worker, Workers,
    },
    size::{SizeError, parse_size},
};

#[cfg(test)]
mod tests;
