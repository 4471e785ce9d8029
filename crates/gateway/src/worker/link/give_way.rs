//! The turn of others.

use std::task::Poll;

/// Lets the tasks run that are ready. Other than [`tokio::task::yield_now`], it does not look at sockets and timers
/// before: with nobody else ready, it takes no time.
pub(super) async fn give_way() {
    let mut gave_way = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut gave_way, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
