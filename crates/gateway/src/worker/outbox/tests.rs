#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use protocol::ids::RequestId;

use super::*;

fn outbox(hold: Duration) -> Outbox {
    Outbox::new(BatchQueue { max_batch_size: 8, flush_interval: hold })
}

fn credit(id: u64) -> Queued {
    Queued::Credit { id: RequestId(id), chunks: 1 }
}

#[test]
fn what_is_pushed_is_taken_in_order_and_once() {
    let outbox = outbox(Duration::ZERO);
    assert_eq!(outbox.next(Instant::now()), Next::Idle);
    assert!(outbox.take().is_empty());
    outbox.push(credit(2));
    outbox.push(credit(1));
    assert_eq!(outbox.next(Instant::now()), Next::Ship);
    assert_eq!(outbox.take(), [credit(2), credit(1)]);
    assert_eq!(outbox.next(Instant::now()), Next::Idle);
}

#[test]
fn a_push_wakes_whoever_waits_now_or_later() {
    let outbox = outbox(Duration::ZERO);
    let mut pushed = std::pin::pin!(outbox.pushed());
    assert!(pushed.as_mut().now_or_never().is_none());
    outbox.push(credit(1));
    assert!(pushed.now_or_never().is_some());
    assert!(outbox.pushed().now_or_never().is_none(), "it was reported already");
    outbox.push(credit(2));
    outbox.push(credit(3));
    assert!(outbox.pushed().now_or_never().is_some(), "it came before the wait");
    assert!(outbox.pushed().now_or_never().is_none(), "one wake-up is enough for both");
}

#[test]
fn pushes_from_many_threads_are_all_taken() {
    let outbox = Arc::new(outbox(Duration::ZERO));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let outbox = Arc::clone(&outbox);
            std::thread::spawn(move || (0..100).for_each(|n| outbox.push(credit(thread * 100 + n))))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut taken = Vec::new();
    while outbox.next(Instant::now()) == Next::Ship {
        taken.extend(outbox.take());
    }
    let ids = |thread: u64| {
        let of_thread = taken.iter().filter_map(move |queued| match queued {
            Queued::Credit { id, .. } if id.0 / 100 == thread => Some(id.0),
            _ => None,
        });
        of_thread.collect::<Vec<_>>()
    };
    for thread in 0..4 {
        assert_eq!(ids(thread), (thread * 100..(thread + 1) * 100).collect::<Vec<_>>(), "in its own order");
    }
    assert_eq!(taken.len(), 400);
}

#[tokio::test(start_paused = true)]
async fn a_hold_window_is_measured_on_the_clock_of_the_links_timer() {
    let hold = Duration::from_millis(4);
    let outbox = outbox(hold);
    // A clock that stands still and one that runs would soon differ.
    tokio::time::advance(Duration::from_secs(3600)).await;
    outbox.push(credit(1));
    let now = tokio::time::Instant::now().into_std();
    assert_eq!(outbox.next(now), Next::HoldUntil(now + hold));
    assert_eq!(outbox.next(now + hold), Next::Ship);
}
