#![allow(clippy::unwrap_used)]

mod model;

use std::time::Duration;

use protocol::{
    codec,
    message::{Batch, ChatMessage, OperationKind, Prompt, TokenizeInput},
};

use super::*;

const AT_ONCE: Next = Next::Ship(Flush::AtOnce);

fn request(id: u64) -> Generate {
    Generate::new(RequestId(id), Prompt::Text(String::new()), 1)
}

fn generate(id: u64) -> Queued {
    Queued::generate(request(id)).unwrap()
}

fn credit(id: u64, chunks: u32) -> Queued {
    Queued::Credit { id: RequestId(id), chunks }
}

fn operation(id: u64, kind: &OperationKind) -> NewOperation<'_> {
    NewOperation::new(RequestId(id), kind).unwrap()
}

fn count_tokens(text: &str) -> OperationKind {
    OperationKind::Count(TokenizeInput::new(Prompt::Text(text.into())))
}

fn detokenize(tokens: usize) -> OperationKind {
    OperationKind::Detokenize { tokens: vec![u32::MAX; tokens], skip_special_tokens: false }
}

fn take(batcher: &mut Batcher, now: Instant) -> Taken {
    let mut taken = Taken::default();
    batcher.take(now, &mut taken);
    taken
}

/// What the worker decodes of it, and how long the body was.
fn decoded(taken: &Taken) -> (Vec<Submission>, usize) {
    let mut body = Vec::new();
    taken.encode(&mut body).unwrap();
    let submissions = codec::decode::<Batch>(&body).unwrap().submissions;
    assert_eq!(submissions.len(), taken.len());
    (submissions, body.len())
}

/// The operations that the worker decodes, with their kind.
fn decoded_operations(taken: &Taken) -> Vec<(u64, usize)> {
    let operations = decoded(taken).0.into_iter().map(|submission| match submission {
        Submission::Operation(operation) => (operation.id.0, operation.kind.index()),
        other => panic!("{other:?}"),
    });
    operations.collect()
}

fn batcher(max_batch_size: usize, hold_ms: u64) -> Batcher {
    Batcher::new(BatchQueue { max_batch_size, flush_interval: Duration::from_millis(hold_ms) })
}

#[test]
fn without_a_hold_window_anything_ships_at_once() {
    let (mut batcher, now) = (batcher(8, 0), Instant::now());
    assert_eq!(batcher.next(now), Next::Idle);
    assert!(batcher.push(generate(1), || now));
    assert_eq!(batcher.next(now), AT_ONCE);
    assert_eq!(take(&mut batcher, now).submissions, [generate(1)]);
    assert_eq!(batcher.next(now), Next::Idle);
}

#[test]
fn without_a_hold_window_only_the_first_push_has_to_be_looked_at() {
    let (mut batcher, now) = (batcher(2, 0), Instant::now());
    assert!(batcher.push(generate(1), || now));
    let asked = || panic!("the clock is of no use");
    assert!(!batcher.push(credit(1, 1), asked));
    assert!(!batcher.push(Queued::Cancel(RequestId(9)), asked));
    assert!(!batcher.push_operation(operation(7, &count_tokens("a")), true, asked).unwrap());
    assert_eq!(take(&mut batcher, now).len(), 3, "two, and one operation");
    assert!(!batcher.push(Queued::Drain, asked), "the cancel is still there");
    assert_eq!(take(&mut batcher, now).len(), 2);
    assert!(batcher.push(credit(1, 1), || now));
}

/// The first of many submissions that come every `gap`, with a window of 4 ms: it is held for eight of them.
fn busy(max_batch_size: usize, gap: Duration) -> (Batcher, Instant) {
    let (mut batcher, mut now) = (batcher(max_batch_size, 4), Instant::now());
    for id in 1000..1200 {
        take(&mut batcher, now);
        now += gap;
        batcher.push(generate(id), || now);
    }
    (batcher, now)
}

#[test]
fn a_hold_counts_from_the_oldest_and_a_full_batch_ends_it() {
    let (mut batcher, now) = busy(2, Duration::from_micros(100));
    let due = now + Duration::from_micros(800);
    assert_eq!(batcher.next(now + Duration::from_micros(1)), Next::HoldUntil(due));
    assert_eq!(batcher.next(due), Next::Ship(Flush::Window));
    let later = now + Duration::from_micros(100);
    assert!(batcher.push(generate(2), || later), "it is full now");
    assert_eq!(batcher.next(later), Next::Ship(Flush::Full));
    assert_eq!(take(&mut batcher, due).waited(), Duration::from_micros(800));
}

#[test]
fn what_comes_after_a_silence_is_not_held() {
    let (mut batcher, now) = busy(64, Duration::from_micros(100));
    assert!(matches!(batcher.next(now), Next::HoldUntil(_)));
    take(&mut batcher, now);
    let later = now + Duration::from_millis(5);
    batcher.push(generate(1), || later);
    assert_eq!(batcher.next(later), AT_ONCE);
}

#[test]
fn urgent_submissions_end_a_hold() {
    let pushes: [fn(&mut Batcher, Instant) -> bool; 4] = [
        |batcher, now| batcher.push(Queued::Cancel(RequestId(1)), || now),
        |batcher, now| batcher.push(Queued::Drain, || now),
        |batcher, now| batcher.push_operation(operation(7, &count_tokens("a")), true, || now).unwrap(),
        |batcher, _| batcher.hurry(),
    ];
    for push in pushes {
        let (mut batcher, now) = busy(64, Duration::from_micros(100));
        assert!(!batcher.push(credit(9, 1), || now));
        assert!(!batcher.push_operation(operation(6, &count_tokens("a")), false, || now).unwrap());
        assert!(matches!(batcher.next(now), Next::HoldUntil(_)));
        assert!(push(&mut batcher, now));
        assert_eq!(batcher.next(now), Next::Ship(Flush::Urgent));
        assert!(!push(&mut batcher, now), "it was told");
        take(&mut batcher, now);
        let later = now + Duration::from_micros(100);
        batcher.push(generate(1), || later);
        assert!(matches!(batcher.next(later), Next::HoldUntil(_)), "the next one is not urgent");
    }
    assert!(!batcher(8, 4).hurry(), "nothing is queued");
}

#[test]
fn a_stream_cancelled_before_it_shipped_leaves_nothing() {
    let (mut batcher, now) = (batcher(8, 4), Instant::now());
    batcher.push(generate(1), || now);
    batcher.push(credit(1, 3), || now);
    assert!(!batcher.push(Queued::Cancel(RequestId(1)), || now));
    assert_eq!((batcher.len(), batcher.next(now)), (0, Next::Idle));
}

#[test]
fn a_shipped_stream_is_cancelled_without_its_credit() {
    let (mut batcher, now) = (batcher(8, 0), Instant::now());
    batcher.push(generate(1), || now);
    take(&mut batcher, now);
    batcher.push(credit(1, 3), || now);
    batcher.push(Queued::Cancel(RequestId(1)), || now);
    assert_eq!(take(&mut batcher, now).submissions, [Queued::Cancel(RequestId(1))]);
}

#[test]
fn operations_of_one_kind_lie_together_behind_everything_else() {
    let (mut batcher, now) = (batcher(8, 0), Instant::now());
    let kinds = [count_tokens("a"), detokenize(1), count_tokens("b"), detokenize(2), count_tokens("c")];
    for (id, kind) in (10..).zip(&kinds) {
        batcher.push_operation(operation(id, kind), false, || now).unwrap();
        batcher.push(credit(id, 1), || now);
    }
    let (submissions, _) = decoded(&take(&mut batcher, now));
    let (credits, operations) = submissions.split_at(5);
    assert!(credits.iter().all(|it| matches!(it, Submission::Credit { .. })));
    let operations = operations.iter().map(|submission| match submission {
        Submission::Operation(operation) => {
            assert_eq!(operation.kind, kinds[operation.id.0 as usize - 10]);
            operation.id.0
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(operations.collect::<Vec<_>>(), [10, 12, 14, 11, 13]);
}

#[test]
fn every_kind_has_its_turn() {
    let (mut batcher, now) = (batcher(2, 0), Instant::now());
    for id in 0..20 {
        let kind = if id < 16 { count_tokens("a") } else { detokenize(1) };
        batcher.push_operation(operation(id, &kind), false, || now).unwrap();
    }
    let mut first_detokenize = None;
    for frame in 0.. {
        let found = decoded_operations(&take(&mut batcher, now));
        assert!(found.len() <= 2);
        if found.is_empty() {
            break;
        }
        if found.iter().any(|&(id, _)| id >= 16) {
            first_detokenize.get_or_insert(frame);
        }
    }
    assert!(first_detokenize.unwrap() < OperationKind::COUNT, "{first_detokenize:?}");
}

#[test]
fn a_large_operation_delays_small_ones_by_one_frame_at_most() {
    let (mut batcher, now) = (batcher(4, 0), Instant::now());
    let (large, small) = (detokenize(MAX_BATCH_BYTES / 4), count_tokens("a"));
    batcher.push_operation(operation(100, &large), false, || now).unwrap();
    let mut frames = Vec::new();
    for id in 0..6 {
        for n in 0..4 {
            batcher.push_operation(operation(id * 4 + n, &small), false, || now).unwrap();
        }
        frames.push(decoded_operations(&take(&mut batcher, now)).len());
    }
    assert_eq!(frames, [4, 1, 4, 4, 4, 4], "it has one frame for itself, and that soon");
    // One that is not that large takes a place beside the small ones.
    let (mut batcher, medium) = (self::batcher(4, 0), detokenize(MAX_BATCH_BYTES / 16));
    batcher.push_operation(operation(100, &medium), false, || now).unwrap();
    for id in 0..8 {
        batcher.push_operation(operation(id, &small), false, || now).unwrap();
    }
    let ids: Vec<_> = decoded_operations(&take(&mut batcher, now)).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [0, 1, 2, 100]);
}

#[test]
fn the_largest_operation_fits_behind_a_full_frame_and_a_larger_one_is_refused() {
    let (mut batcher, now) = (batcher(8, 0), Instant::now());
    let text = |len| OperationKind::Count(TokenizeInput::new(Prompt::Text("x".repeat(len))));
    let most = EncodedSubmission::MAX - 2 * MAX_BATCH_BYTES;
    let error = NewOperation::new(RequestId(1), &text(most)).unwrap_err();
    assert!(matches!(error, CodecError::TooLarge { .. }), "{error}");
    let large = text(most - 100);
    batcher.push_operation(operation(1, &large), false, || now).unwrap();
    let mut request = request(2);
    request.stop = vec!["x".repeat(MAX_BATCH_BYTES - 1000)];
    batcher.push(Queued::generate(request).unwrap(), || now);
    assert_eq!(decoded(&take(&mut batcher, now)).0.len(), 2);
}

#[test]
fn a_drain_comes_last_of_all() {
    let (mut batcher, now) = (batcher(1, 0), Instant::now());
    batcher.push(Queued::Drain, || now);
    for id in 0..3 {
        batcher.push_operation(operation(id, &count_tokens("a")), false, || now).unwrap();
    }
    batcher.push(generate(9), || now);
    let mut all = Vec::new();
    while batcher.next(now) != Next::Idle {
        all.extend(decoded(&take(&mut batcher, now)).0);
    }
    assert_eq!((all.len(), all.last()), (5, Some(&Submission::Drain)));
    assert!(batcher.is_empty());
}

/// Requests whose size lies in one field each: all of them that a client can fill.
fn large_requests(bytes: usize) -> [Generate; 7] {
    let text = || "x".repeat(bytes);
    let message = || ChatMessage::new("user", String::new());
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
            let request = Generate { id: RequestId(id), ..large.clone() };
            batcher.push(Queued::generate(request).unwrap(), || now);
        }
        batcher.push(generate(3), || now);
        let mut sizes = Vec::new();
        while batcher.next(now) != Next::Idle {
            let (submissions, bytes) = decoded(&take(&mut batcher, now));
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
