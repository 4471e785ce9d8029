//! What the tests of several crates share: one fake of each thing, and one way to start each program.
//!
//! | | |
//! | --- | --- |
//! | [`TestEnv`] | a program under test in a folder of its own |
//! | [`Server`], [`Client`] | a real gateway with real workers, and an HTTP client for it |
//! | [`FakeHub`] | a model hub on the loopback interface |
//! | [`FakeCollector`] | an OpenTelemetry collector on the loopback interface |
//! | [`gguf`], [`huggingface`], [`safetensors`] | small model files, written from their formats' definitions |
//! | `worker` (feature `worker`) | a worker whose side of the protocol the test plays |
//! | [`LogBuffer`] | what is logged |
//! | [`process`], [`memory`] | signals to processes, and what they keep in memory |
//! | [`allocations`] | an allocator that counts |
//!
//! `cargo xtask test` builds the binaries, imports the test model, and says where both are in the
//! environment variables [`BIN_DIR`] and [`STORE`].

#![allow(clippy::unwrap_used, reason = "a test fails where its environment does")]

pub mod allocations;
mod client;
mod collector;
mod env;
pub mod files;
pub mod gguf;
mod hub;
pub mod huggingface;
mod log;
pub mod memory;
mod private_store;
pub mod process;
pub mod safetensors;
mod scripted_model;
mod server;
mod slow_reader;
mod tiny_encoder;
mod tiny_model;
#[cfg(feature = "worker")]
pub mod wait;
#[cfg(feature = "worker")]
pub mod worker;

pub use client::{Answer, Client, StreamAnswer, chat};
pub use collector::{ExportedSpan, FakeCollector};
pub use env::TestEnv;
pub use hub::{COMMIT, FakeHub, HubRequest, OnFile, Repository};
pub use log::LogBuffer;
pub use private_store::{PrivateStore, import, import_adapter};
pub use scripted_model::{Script, write_scripted_model};
pub use server::{Options, Server, StartError};
pub use slow_reader::SlowReader;
pub use tiny_encoder::write_tiny_encoder;
pub use tiny_model::{tiny_config, write_model, write_tiny_adapter, write_tiny_hybrid, write_tiny_model};

/// Names the folder that holds `kr-gateway`, `kr-worker` and `cache-tool`.
pub const BIN_DIR: &str = "KR_TEST_BIN_DIR";

/// Names an artifact store that holds [`MODEL`].
pub const STORE: &str = "KR_TEST_STORE";

/// The model that the tests run.
pub const MODEL: &str = "smollm2-135m-instruct";

/// The value of an environment variable that `cargo xtask test` sets.
///
/// # Panics
/// It is not set.
pub fn variable(name: &str) -> std::path::PathBuf {
    std::env::var_os(name).map_or_else(|| panic!("{name} is not set: run `cargo xtask test`"), Into::into)
}

/// Path of a binary under test.
///
/// # Panics
/// It was not built.
pub fn binary(name: &str) -> std::path::PathBuf {
    let path = variable(BIN_DIR).join(name);
    assert!(path.is_file(), "{} is missing: run `cargo xtask test`", path.display());
    path
}
