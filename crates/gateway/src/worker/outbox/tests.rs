#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use protocol::{
    codec,
    ids::RequestId,
    message::{Batch, Prompt, Submission, TokenizeInput},
};

use super::*;
use crate::worker::batcher::Flush;

fn outbox(hold: Duration) -> Outbox {
    Outbox::new(BatchQueue { max_batch_size: 8, flush_interval: hold })
}

fn credit(id: u64) -> Queued {
    Queued::Credit { id: RequestId(id), chunks: 1 }
}

/// Ids of the requests that the next batch is about.
fn take(outbox: &Outbox) -> Vec<u64> {
    let (mut taken, mut body) = (Taken::default(), Vec::new());
    outbox.take_batch(now(), &mut taken);
    taken.encode(&mut body).unwrap();
    let submissions = codec::decode::<Batch>(&body).unwrap().submissions.into_iter();
    let ids = submissions.map(|submission| match submission {
        Submission::Credit { id, .. } => id.0,
        Submission::Operation(operation) => operation.id.0,
        other => panic!("{other:?}"),
    });
    ids.collect()
}

#[test]
fn what_is_pushed_is_taken_in_order_and_once() {
    let outbox = outbox(Duration::ZERO);
    assert_eq!(outbox.next(Instant::now()), Next::Idle);
    assert!(take(&outbox).is_empty());
    outbox.push(credit(2));
    outbox.push(credit(1));
    assert_eq!(outbox.next(Instant::now()), Next::Ship(Flush::AtOnce));
    assert_eq!(take(&outbox), [2, 1]);
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
    outbox.push(credit(1));
    outbox.push(credit(2));
    assert!(outbox.pushed().now_or_never().is_none(), "whoever ships takes until nothing is left");
    take(&outbox);
    outbox.push(credit(2));
    outbox.push(credit(3));
    assert!(outbox.pushed().now_or_never().is_some(), "it came before the wait");
    assert!(outbox.pushed().now_or_never().is_none(), "one wake-up is enough for both");
}

#[test]
fn pushes_from_many_threads_are_all_taken() {
    let outbox = Arc::new(outbox(Duration::ZERO));
    let kind = OperationKind::Count(TokenizeInput::new(Prompt::Text("a".into())));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (outbox, kind) = (Arc::clone(&outbox), kind.clone());
            std::thread::spawn(move || {
                for id in thread * 100..(thread + 1) * 100 {
                    match thread {
                        0 | 1 => outbox.push(credit(id)),
                        _ => outbox.push_operation(RequestId(id), &kind, false).unwrap(),
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut taken = Vec::new();
    while outbox.next(Instant::now()) != Next::Idle {
        taken.extend(take(&outbox));
    }
    let ids = |thread: u64| {
        let of_thread = taken.iter().copied().filter(move |id| id / 100 == thread);
        of_thread.collect::<Vec<_>>()
    };
    for thread in 0..4 {
        assert_eq!(ids(thread), (thread * 100..(thread + 1) * 100).collect::<Vec<_>>(), "in its own order");
    }
    assert_eq!(taken.len(), 400);
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_measured_on_the_clock_of_the_links_timer() {
    let outbox = outbox(Duration::from_millis(4));
    // A clock that stands still and one that runs would soon differ.
    tokio::time::advance(Duration::from_secs(3600)).await;
    outbox.push(credit(1));
    assert_eq!(outbox.next(now()), Next::Ship(Flush::AtOnce), "nothing was known before");
    take(&outbox);
    tokio::time::advance(Duration::from_millis(1)).await;
    outbox.push(credit(1));
    let now = now();
    let hold = Duration::from_millis(4);
    assert_eq!(outbox.next(now), Next::HoldUntil(now + hold));
    assert_eq!(outbox.next(now + hold), Next::Ship(Flush::Window));
}
