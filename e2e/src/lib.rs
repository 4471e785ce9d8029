//! What the end-to-end tests share: the real binaries, started in a closed world of their own.
//!
//! `cargo xtask test` builds the binaries, imports the test model, and says where both are in the
//! environment variables [`BIN_DIR`] and [`STORE`].

#![allow(clippy::unwrap_used, reason = "a test stops where its world breaks")]

mod client;
#[cfg(target_os = "linux")]
mod memory;
mod process;
mod server;
mod slow_reader;
mod store;
mod tiny;

pub use client::{Answer, Client, StreamAnswer, chat};
#[cfg(target_os = "linux")]
pub use memory::{Memory, mapped_memory};
pub use process::{is_alive, kill, resume, suspend, terminate, wait_for_end};
pub use server::{Options, Server};
pub use slow_reader::SlowReader;
pub use store::{PrivateStore, import};
pub use tiny::{tiny_config, write_model, write_tiny_model};

/// Names the folder that holds `kr-gateway`, `kr-worker` and `cache-tool`.
pub const BIN_DIR: &str = "KR_TEST_BIN_DIR";

/// Names an artifact store that holds [`MODEL`].
pub const STORE: &str = "KR_TEST_STORE";

/// The model that the tests run.
pub const MODEL: &str = "smollm2-135m-instruct";

/// The value of one of the two variables.
///
/// # Panics
/// It is missing.
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
