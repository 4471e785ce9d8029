#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use protocol::{
    codec,
    message::{Batch, ChatMessage, Prompt},
};

use super::*;

fn request(id: u64) -> Generate {
    Generate::new(RequestId(id), Prompt::Text(String::new()), 1)
}

fn generate(id: u64) -> Queued {
    Queued::generate(request(id)).unwrap()
}

fn credit(id: u64, chunks: u32) -> Queued {
    Queued::Credit { id: RequestId(id), chunks }
}

/// What the worker decodes of it, and how long the body was.
fn decoded(taken: Vec<Queued>) -> (Vec<Submission>, usize) {
    let mut body = Vec::new();
    encode(taken, &mut body).unwrap();
    (codec::decode::<Batch>(&body).unwrap().submissions, body.len())
}

fn batcher(max_batch_size: usize, hold_ms: u64) -> Batcher {
    Batcher::new(BatchQueue { max_batch_size, flush_interval: Duration::from_millis(hold_ms) })
}

#[test]
fn without_a_hold_window_anything_ships_at_once() {
    let (mut batcher, now) = (batcher(8, 0), Instant::now());
    assert_eq!(batcher.next(now), Next::Idle);
    batcher.push(generate(1), now);
    assert_eq!(batcher.next(now), Next::Ship);
    assert_eq!(batcher.take(), [generate(1)]);
    assert_eq!(batcher.next(now), Next::Idle);
}

#[test]
fn a_hold_window_counts_from_the_oldest_and_a_full_batch_ends_it() {
    let (mut batcher, now) = (batcher(2, 4), Instant::now());
    batcher.push(generate(1), now);
    let due = now + Duration::from_millis(4);
    assert_eq!(batcher.next(now + Duration::from_millis(1)), Next::HoldUntil(due));
    assert_eq!(batcher.next(due), Next::Ship);
    batcher.push(generate(2), now + Duration::from_millis(2));
    assert_eq!(batcher.next(now + Duration::from_millis(2)), Next::Ship);
}

#[test]
fn a_stream_cancelled_before_it_shipped_leaves_nothing() {
    let (mut batcher, now) = (batcher(8, 4), Instant::now());
    batcher.push(generate(1), now);
    batcher.push(credit(1, 3), now);
    batcher.push(Queued::Cancel(RequestId(1)), now);
    assert_eq!((batcher.len(), batcher.next(now)), (0, Next::Idle));
}

#[test]
fn a_shipped_stream_is_cancelled_without_its_credit() {
    let (mut batcher, now) = (batcher(8, 0), Instant::now());
    batcher.push(generate(1), now);
    batcher.take();
    batcher.push(credit(1, 3), now);
    batcher.push(Queued::Cancel(RequestId(1)), now);
    assert_eq!(batcher.take(), [Queued::Cancel(RequestId(1))]);
}

/// Requests whose size lies in one field each: all of them that a client can fill.
fn large_requests(bytes: usize) -> [Generate; 7] {
    let text = || "x".repeat(bytes);
    let message = || ChatMessage { role: "user".into(), content: String::new(), name: None };
    let chat = |message| Prompt::Chat(vec![message]);
    let mut requests = [0; 7].map(request);
    requests[0].prompt = Prompt::Text(text());
    requests[1].prompt = Prompt::Tokens(vec![u32::MAX; bytes / 5]);
    requests[2].prompt = chat(ChatMessage { role: text(), ..message() });
    requests[3].prompt = chat(ChatMessage { content: text(), ..message() });
    requests[4].prompt = chat(ChatMessage { name: Some(text()), ..message() });
    requests[5].stop = vec![String::new(), text()];
    requests[6].sampling.logit_bias = vec![(u32::MAX, 1.0); bytes / 9];
    requests
}

#[test]
fn large_requests_are_split_over_batches_whatever_makes_them_large() {
    for large in large_requests(MAX_BATCH_BYTES / 2) {
        let (mut batcher, now) = (batcher(8, 0), Instant::now());
        for id in 0..3 {
            batcher.push(Queued::generate(Generate { id: RequestId(id), ..large.clone() }).unwrap(), now);
        }
        batcher.push(generate(3), now);
        let mut sizes = Vec::new();
        while batcher.next(now) == Next::Ship {
            let (submissions, bytes) = decoded(batcher.take());
            assert!(bytes <= MAX_BATCH_BYTES + 3, "{bytes} bytes");
            sizes.push(submissions.len());
        }
        assert_eq!(sizes.iter().sum::<usize>(), 4);
        assert!(sizes.len() >= 2, "{sizes:?}");
    }
}

#[test]
fn a_request_that_fits_no_batch_is_refused_alone() {
    let mut huge = request(1);
    huge.stop = vec!["x".repeat(EncodedSubmission::MAX)];
    let error = Queued::generate(huge).unwrap_err();
    assert!(matches!(error, CodecError::TooLarge { .. }), "{error}");
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Start,
    Credit(usize, u32),
    Cancel(usize),
    Take,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        Just(Op::Start),
        (0..8usize, 1..9u32).prop_map(|(i, n)| Op::Credit(i, n)),
        (0..8usize).prop_map(Op::Cancel),
        Just(Op::Take),
    ]
}

proptest! {
    /// Against a model of what the worker must have received: every live stream was started once,
    /// before its credit, and has all of it; a cancelled one is unknown or cancelled once; no
    /// batch is too large; the queue stays within three submissions a stream.
    #[test]
    fn the_worker_receives_what_was_submitted(ops in prop::collection::vec(op(), 0..200), max in 1..9usize) {
        let (mut batcher, now) = (batcher(max, 0), Instant::now());
        let (mut submitted, mut received) = (BTreeMap::<u64, u32>::new(), BTreeMap::<u64, u32>::new());
        let mut next_id = 0;
        let receive = |taken: Vec<Queued>, received: &mut BTreeMap<u64, u32>| {
            prop_assert!(!taken.is_empty() && taken.len() <= max);
            let mut body = Vec::new();
            encode(taken, &mut body).unwrap();
            for submission in codec::decode::<Batch>(&body).unwrap().submissions {
                match submission {
                    Submission::Generate(g) => prop_assert!(received.insert(g.id.0, 0).is_none()),
                    Submission::Credit { id, chunks } => *received.get_mut(&id.0).unwrap() += chunks,
                    Submission::Cancel(id) => prop_assert!(received.remove(&id.0).is_some()),
                    Submission::Operation(_) | Submission::Drain => prop_assert!(false),
                }
            }
            Ok(())
        };
        for op in ops {
            match op {
                Op::Start if submitted.len() < 8 => {
                    submitted.insert(next_id, 0);
                    batcher.push(generate(next_id), now);
                    next_id += 1;
                }
                Op::Start => {}
                Op::Credit(i, n) => if let Some((id, sum)) = submitted.iter_mut().nth(i) {
                    *sum += n;
                    batcher.push(credit(*id, n), now);
                },
                Op::Cancel(i) => if let Some(id) = submitted.keys().nth(i).copied() {
                    submitted.remove(&id);
                    batcher.push(Queued::Cancel(RequestId(id)), now);
                },
                Op::Take => if batcher.next(now) == Next::Ship {
                    receive(batcher.take(), &mut received)?;
                },
            }
            prop_assert!(batcher.len() <= 3 * 8, "{} submissions", batcher.len());
        }
        while batcher.next(now) == Next::Ship {
            receive(batcher.take(), &mut received)?;
        }
        prop_assert_eq!(submitted, received);
    }
}
