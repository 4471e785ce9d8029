//! What one client, one file or one crash can't do to the others: each module is an attack that once worked, run
//! against the real binaries.

#![allow(clippy::unwrap_used)]

use std::{io::Write, time::Duration};

use serde_json::Value;
use test_support::Server;

mod failed_import;
mod forged_turns;
mod hostile_config;
mod killed_workers;
mod large_stop;
mod load;
mod long_prompt;
mod models;
mod paused_worker;
mod shared_shard;
mod stalled_readers;
mod stopped_readers;

/// Between two looks: a loop of requests would take the processor from what it waits for.
const POLL: Duration = Duration::from_millis(50);

/// A file with the gateway's settings.
fn config(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// What the gateway says about its first worker.
fn worker(server: &Server) -> Value {
    server.client.get("/readyz").json["workers"][0].clone()
}
