//! The threads that serve connections.

use std::{io, thread::available_parallelism};

use tokio::runtime::{Builder, Runtime};

/// More would only pass tasks to each other: a thread serves some ten thousand tokens a second.
const MOST: usize = 8;

/// A runtime of so many `threads`; 0: one for every four cores.
///
/// # Errors
/// The system has no more threads.
pub fn start(threads: usize) -> io::Result<Runtime> {
    let threads = if threads == 0 { default_threads() } else { threads };
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// One for every four cores. The cores are for the workers; and waking a task costs several times as much while an idle
/// thread may steal it.
fn default_threads() -> usize {
    let cores = available_parallelism().map_or(1, usize::from);
    (cores / 4).clamp(1, MOST)
}
