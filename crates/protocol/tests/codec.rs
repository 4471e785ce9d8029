//! Any message survives the way there and back; anything else is refused, and cheaply.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

#[path = "codec/messages.rs"]
mod messages;

use messages::{batch, report};
use proptest::prelude::*;
use protocol::{
    codec::{CodecError, MAX_ENCODED, decode, encode},
    ids::RequestId,
    message::{
        Answer, Batch, Delta, Embeddings, EncodedSubmission, Generate, Heartbeat, MAX_ANSWER_TOKENS,
        MAX_DELTA_PARTS, MAX_DELTA_TOKENS, MAX_EMBED_INPUTS, MAX_EMBEDDING_SIZE, MAX_EVENTS, MAX_TOKEN_BYTES,
        MAX_TOP_LOGPROBS, OutputPart, Pieces, Prompt, Report, StreamEvent, StreamEventKind, Submission,
        TokenLogprob, TokenLogprobs, append_operation, append_submission, begin_batch, encode_batch,
    },
};
use serde::Serialize;

fn bytes_of<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes).unwrap();
    bytes
}

proptest! {
    #[test]
    fn batches_come_back_as_they_were(batch in batch()) {
        prop_assert_eq!(decode::<Batch>(&bytes_of(&batch)).unwrap(), batch);
    }

    #[test]
    fn a_batch_of_encoded_submissions_is_the_encoded_batch(batch in batch()) {
        let parts: Vec<_> = batch.submissions.iter().map(|it| EncodedSubmission::new(it).unwrap()).collect();
        let mut bytes = vec![1, 2, 3];
        encode_batch(&parts, &mut bytes).unwrap();
        prop_assert_eq!(bytes, bytes_of(&batch));
    }

    #[test]
    fn a_batch_of_appended_submissions_is_the_encoded_batch(batch in batch()) {
        let mut bytes = vec![1, 2, 3];
        begin_batch(batch.submissions.len(), &mut bytes).unwrap();
        for submission in &batch.submissions {
            let before = bytes.len();
            let part = match submission {
                Submission::Operation(operation) => {
                    append_operation(operation.id, &operation.kind, &mut bytes).unwrap();
                    EncodedSubmission::operation(operation.id, &operation.kind).unwrap()
                }
                other => {
                    append_submission(other, &mut bytes).unwrap();
                    EncodedSubmission::new(other).unwrap()
                }
            };
            prop_assert_eq!(part.as_bytes(), &bytes[before..]);
        }
        prop_assert_eq!(bytes, bytes_of(&batch));
    }

    #[test]
    fn reports_come_back_as_they_were(report in report()) {
        prop_assert_eq!(decode::<Report>(&bytes_of(&report)).unwrap(), report);
    }

    #[test]
    fn a_cut_or_longer_message_is_refused(batch in batch(), cut in any::<prop::sample::Index>()) {
        let mut bytes = bytes_of(&batch);
        let cut = decode::<Batch>(&bytes[..cut.index(bytes.len())]);
        prop_assert!(matches!(cut, Err(CodecError::Decode(_))), "{cut:?}");
        bytes.push(0);
        let longer = decode::<Batch>(&bytes);
        let found = matches!(longer, Err(CodecError::TrailingBytes { rest: 1 }));
        prop_assert!(found, "{longer:?}");
    }
}

#[test]
fn the_buffer_is_cleared_and_reused() {
    let mut buffer = Vec::with_capacity(64);
    let place = buffer.as_ptr();
    encode(&Report::Heartbeat(Heartbeat::default()), &mut buffer).unwrap();
    encode(&Report::Drained, &mut buffer).unwrap();
    assert_eq!((&*buffer, buffer.as_ptr()), (&[4][..], place));
}

#[test]
fn too_large_a_message_is_neither_encoded_nor_decoded() {
    let text = |len| Batch {
        submissions: vec![Submission::Generate(Box::new(Generate::new(
            RequestId(1),
            Prompt::Text("x".repeat(len)),
            1,
        )))],
    };
    let frame = bytes_of(&text(1 << 20)).len() - (1 << 20);
    let largest = text(MAX_ENCODED - frame);
    let bytes = bytes_of(&largest);
    assert_eq!(bytes.len(), MAX_ENCODED);
    assert!(decode::<Batch>(&bytes).unwrap() == largest);

    // The largest submission is a batch of that size, and one more byte is refused before it is in a batch.
    let part = EncodedSubmission::new(&largest.submissions[0]).unwrap();
    assert_eq!(part.size(), EncodedSubmission::MAX);
    let mut again = Vec::new();
    encode_batch(std::slice::from_ref(&part), &mut again).unwrap();
    assert!(again == bytes);
    let error = EncodedSubmission::new(&text(MAX_ENCODED - frame + 1).submissions[0]).unwrap_err();
    assert!(matches!(error, CodecError::TooLarge { len, limit } if len == limit + 1), "{error}");
    let drain = EncodedSubmission::new(&Submission::Drain).unwrap();
    assert!(matches!(encode_batch(&[part, drain], &mut again), Err(CodecError::TooLarge { .. })));
    assert!(again.is_empty());

    let mut bytes = vec![1];
    let error = encode(&text(MAX_ENCODED - frame + 1), &mut bytes).unwrap_err();
    assert!(matches!(error, CodecError::TooLarge { len, .. } if len == MAX_ENCODED + 1), "{error}");
    assert!(bytes.is_empty());
    let error = decode::<Batch>(&vec![0; MAX_ENCODED + 1]).unwrap_err();
    assert!(matches!(error, CodecError::TooLarge { .. }), "{error}");
}

#[test]
fn lists_of_a_report_are_bounded() {
    let one = |kind| Report::Events(vec![StreamEvent { id: RequestId(1), kind }]);
    let delta =
        |tokens| one(StreamEventKind::Delta(Delta { tokens: vec![7; tokens].into(), ..Delta::default() }));
    let parts = |count| {
        let parts = vec![OutputPart::Text("x".into()); count];
        one(StreamEventKind::Delta(Delta { parts, ..Delta::default() }))
    };
    let answer = |tokens| one(StreamEventKind::Answered(Answer::Tokens(vec![7; tokens])));
    let pieces = |tokens| {
        let mut pieces = Pieces::with_capacity(tokens);
        (0..tokens).for_each(|_| pieces.push(7, b""));
        one(StreamEventKind::Answered(Answer::Pieces(pieces)))
    };
    let embeddings = |count, width| {
        let mut embeddings = Embeddings::default();
        (0..count).for_each(|_| embeddings.push(7, &vec![0.5; width]));
        one(StreamEventKind::Answered(Answer::Embeddings(embeddings)))
    };
    let logprobs = |count, top, bytes| {
        let likely = TokenLogprob { token: 7, logprob: -1.0, special: false, bytes: vec![7; bytes] };
        let entry = TokenLogprobs { chosen: likely.clone(), top: vec![likely; top] };
        one(StreamEventKind::Delta(Delta { logprobs: vec![entry; count], ..Delta::default() }))
    };
    let events = |count| {
        let kind = StreamEventKind::Prepared { prompt_tokens: 1 };
        Report::Events(vec![StreamEvent { id: RequestId(1), kind }; count])
    };
    for (within, beyond) in [
        (delta(MAX_DELTA_TOKENS), delta(MAX_DELTA_TOKENS + 1)),
        (parts(MAX_DELTA_PARTS), parts(MAX_DELTA_PARTS + 1)),
        (answer(MAX_ANSWER_TOKENS), answer(MAX_ANSWER_TOKENS + 1)),
        (pieces(MAX_ANSWER_TOKENS), pieces(MAX_ANSWER_TOKENS + 1)),
        (embeddings(MAX_EMBED_INPUTS, 1), embeddings(MAX_EMBED_INPUTS + 1, 1)),
        (
            embeddings(MAX_EMBED_INPUTS, MAX_EMBEDDING_SIZE),
            embeddings(MAX_EMBED_INPUTS, MAX_EMBEDDING_SIZE + 1),
        ),
        (events(MAX_EVENTS), events(MAX_EVENTS + 1)),
        (logprobs(MAX_DELTA_TOKENS, 1, 1), logprobs(MAX_DELTA_TOKENS + 1, 1, 1)),
        (logprobs(1, MAX_TOP_LOGPROBS, 1), logprobs(1, MAX_TOP_LOGPROBS + 1, 1)),
        (logprobs(1, 1, MAX_TOKEN_BYTES), logprobs(1, 1, MAX_TOKEN_BYTES + 1)),
    ] {
        assert!(decode::<Report>(&bytes_of(&within)).unwrap() == within);
        assert!(matches!(decode::<Report>(&bytes_of(&beyond)), Err(CodecError::Decode(_))));
    }
}

/// Small numbers take one byte and count as eight: the decoder's limit must leave room for that, at every size.
#[test]
fn many_small_numbers_are_within_the_limit() {
    for len in [100, 3000, 10_000, 60_000, 250_000, 1_000_000, 4_000_000] {
        let batch = Batch { submissions: vec![Submission::Cancel(RequestId(1)); len / 2] };
        assert!(decode::<Batch>(&bytes_of(&batch)).unwrap() == batch);
    }
}

/// A length of 2^40 in a message of a dozen bytes: refused by the limit, before there is an allocation.
#[test]
fn a_hostile_length_allocates_nothing() {
    let huge = [0xfd, 0, 0, 0, 0, 0, 1, 0, 0];
    let text = [&[1, 0, 1, 1][..], &huge].concat();
    let error = decode::<Batch>(&text).unwrap_err();
    assert!(format!("{error:?}").contains("LimitExceeded"), "{error:?}");
    let submissions = [&huge[..], &[3, 3, 3]].concat();
    assert!(matches!(decode::<Batch>(&submissions), Err(CodecError::Decode(_))));
}
