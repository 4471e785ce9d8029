//! What one client, one file or one crash can't do to the others: each module is an attack that once worked, run
//! against the real binaries.

mod failed_import;
mod hostile_config;
mod large_stop;
mod long_prompt;
mod models;
mod paused_worker;
mod shared_shard;
mod stalled_readers;
