//! Waiting for what another task does, with an end.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::time::timeout;

/// Longer than anything takes, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The result of `future`.
///
/// # Panics
/// There is none within [`PATIENCE`]; the message says that it was to be `what`.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("timed out waiting for {what}"))
}

/// Lets other tasks work until `condition` holds.
///
/// # Panics
/// It does not within [`PATIENCE`].
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    /// Real time, even if the test's own is paused: without it, the loop would take a processor from the others.
    const POLL: Duration = Duration::from_millis(1);
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        thread::sleep(POLL);
    }
}
