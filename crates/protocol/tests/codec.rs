//! Any message survives the way there and back; anything else is refused, and cheaply.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use proptest::{collection::vec, option, prelude::*};
use protocol::{
    codec::{CodecError, MAX_ENCODED, decode, encode},
    ids::RequestId,
    message::{
        Answer, Batch, ChatMessage, Constraint, ConstraintKind, Delta, EncodedSubmission, Failure,
        FailureKind, FinishReason, Generate, Heartbeat, MAX_ANSWER_TOKENS, MAX_DELTA_TOKENS, MAX_EVENTS,
        ModelInfo, Operation, OperationKind, PieceForm, Pieces, Prompt, Report, Sampling, StreamEvent,
        StreamEventKind, Submission, TokenizeInput, TraceContext, Usage, WorkerMemory, append_operation,
        append_submission, begin_batch, encode_batch,
    },
};
use serde::Serialize;

fn bytes_of<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes).unwrap();
    bytes
}

fn text() -> impl Strategy<Value = String> + Clone {
    ".{0,20}"
}

fn id() -> impl Strategy<Value = RequestId> + Clone {
    any::<u64>().prop_map(RequestId)
}

fn tokens() -> impl Strategy<Value = Vec<u32>> + Clone {
    vec(any::<u32>(), 0..20)
}

prop_compose! {
    fn chat_message()(role in text(), content in text(), name in option::of(text())) -> ChatMessage {
        ChatMessage { role, content, name }
    }
}

fn prompt() -> impl Strategy<Value = Prompt> {
    prop_oneof![
        vec(chat_message(), 0..4).prop_map(Prompt::Chat),
        text().prop_map(Prompt::Text),
        tokens().prop_map(Prompt::Tokens),
    ]
}

prop_compose! {
    fn sampling()(
        floats in [-1e9..1e9f32, 0.0..1f32, 0.0..1f32, 0.0..9f32, -2.0..2f32, -2.0..2f32],
        top_k in any::<u32>(),
        logit_bias in vec((any::<u32>(), -100.0..100f32), 0..4),
        seed in any::<u64>(),
    ) -> Sampling {
        let [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty] = floats;
        Sampling { temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, seed }
    }
}

prop_compose! {
    fn trace_context()(
        trace_id in any::<[u8; 16]>(),
        span_id in any::<[u8; 8]>(),
        sampled in any::<bool>(),
    ) -> TraceContext {
        TraceContext { trace_id, span_id, sampled }
    }
}

fn constraint() -> impl Strategy<Value = Constraint> {
    let kind = prop_oneof![
        Just(ConstraintKind::JsonObject),
        text().prop_map(ConstraintKind::JsonSchema),
        text().prop_map(ConstraintKind::Regex),
        vec(text(), 0..4).prop_map(ConstraintKind::Choice),
        text().prop_map(ConstraintKind::Grammar),
    ];
    (kind, text()).prop_map(|(kind, param)| Constraint { kind, param })
}

prop_compose! {
    fn generate()(
        id in id(),
        prompt in prompt(),
        sampling in sampling(),
        max_tokens in option::of(any::<u32>()),
        stop in vec(text(), 0..3),
        resume in tokens(),
        (ignore_eos, output) in (any::<bool>(), option::of(constraint())),
        credit in any::<u32>(),
        trace in option::of(trace_context()),
        (correlation_id, arrived_micros) in (option::of(text()), any::<u64>()),
    ) -> Generate {
        Generate {
            id, prompt, sampling, max_tokens, stop, resume, ignore_eos, output, credit, trace, correlation_id,
            arrived_micros,
        }
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let input = || {
        (prompt(), any::<bool>(), any::<bool>()).prop_map(
            |(prompt, add_special_tokens, add_generation_prompt)| TokenizeInput {
                prompt,
                add_special_tokens,
                add_generation_prompt,
            },
        )
    };
    let kind = prop_oneof![
        input().prop_map(OperationKind::Tokenize),
        input().prop_map(OperationKind::Count),
        (tokens(), any::<bool>()).prop_map(|(tokens, skip_special_tokens)| OperationKind::Detokenize {
            tokens,
            skip_special_tokens
        }),
        (vec(chat_message(), 0..4), any::<bool>()).prop_map(|(messages, add_generation_prompt)| {
            OperationKind::Render { messages, add_generation_prompt }
        }),
        text().prop_map(|draft| OperationKind::CheckDraft { draft }),
        (input(), prop::sample::select(vec![PieceForm::Vocabulary, PieceForm::Bytes]))
            .prop_map(|(input, form)| OperationKind::Pieces { input, form }),
    ];
    (id(), kind).prop_map(|(id, kind)| Operation { id, kind })
}

fn batch() -> impl Strategy<Value = Batch> {
    let submission = prop_oneof![
        generate().prop_map(|generate| Submission::Generate(Box::new(generate))),
        id().prop_map(Submission::Cancel),
        (id(), any::<u32>()).prop_map(|(id, chunks)| Submission::Credit { id, chunks }),
        operation().prop_map(|operation| Submission::Operation(Box::new(operation))),
        Just(Submission::Drain),
    ];
    vec(submission, 0..6).prop_map(|submissions| Batch { submissions })
}

fn failure() -> impl Strategy<Value = Failure> {
    let kind = prop::sample::select(vec![
        FailureKind::InvalidRequest,
        FailureKind::ContextLengthExceeded,
        FailureKind::Internal,
        FailureKind::WorkerLost,
    ]);
    (kind, option::of(text()), text()).prop_map(|(kind, param, message)| Failure { kind, param, message })
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        tokens().prop_map(Answer::Tokens),
        any::<u64>().prop_map(Answer::Count),
        text().prop_map(Answer::Text),
        (any::<bool>(), option::of(text()), any::<[u32; 2]>()).prop_map(
            |(compatible, reason, [vocab_size, draft_vocab_size])| Answer::DraftCheck {
                compatible,
                reason,
                vocab_size,
                draft_vocab_size,
            }
        ),
        vec((any::<u32>(), vec(any::<u8>(), 0..5)), 0..5).prop_map(|all| {
            let mut pieces = Pieces::default();
            all.iter().for_each(|(token, bytes)| pieces.push(*token, bytes));
            Answer::Pieces(pieces)
        }),
    ]
}

fn event() -> impl Strategy<Value = StreamEvent> {
    let reason = prop::sample::select(vec![FinishReason::Stop, FinishReason::Length]);
    let usage = any::<[u32; 3]>().prop_map(|[prompt_tokens, completion_tokens, cached_tokens]| Usage {
        prompt_tokens,
        completion_tokens,
        cached_tokens,
    });
    let kind = prop_oneof![
        any::<u32>().prop_map(|prompt_tokens| StreamEventKind::Prepared { prompt_tokens }),
        any::<u32>().prop_map(|cached_tokens| StreamEventKind::Started { cached_tokens }),
        (any::<u32>(), tokens(), text()).prop_map(|(first_token, tokens, text)| {
            StreamEventKind::Delta(Delta { first_token, tokens: tokens.into(), text: text.into() })
        }),
        answer().prop_map(StreamEventKind::Answered),
        (reason, usage).prop_map(|(reason, usage)| StreamEventKind::Finished { reason, usage }),
        failure().prop_map(StreamEventKind::Failed),
    ];
    (id(), kind).prop_map(|(id, kind)| StreamEvent { id, kind })
}

fn report() -> impl Strategy<Value = Report> {
    let info = ([text(), text(), text()], any::<[u32; 2]>(), any::<[u64; 5]>()).prop_map(
        |(
            [name, digest, architecture],
            [context_length, vocab_size],
            [weight_bytes, load_micros, tokenizer_micros, kv_bytes, other_bytes],
        )| {
            ModelInfo {
                name,
                digest,
                architecture,
                context_length,
                vocab_size,
                weight_bytes,
                load_micros,
                tokenizer_micros,
                kv_bytes,
                other_bytes,
            }
        },
    );
    let numbers = (any::<[u64; 5]>(), any::<[u64; 6]>(), any::<[u32; 3]>());
    let heartbeat = (numbers, option::of(any::<u64>())).prop_map(
        |(
            (
                [step, oldest_preparation_millis, kv_tokens, kv_capacity, memory_bytes],
                [weights, kv, kv_limit, kept_prefixes, mlx_active, mlx_cache],
                [runnable, paused, waiting],
            ),
            progress,
        )| {
            Heartbeat {
                step,
                runnable,
                paused,
                waiting,
                oldest_preparation_millis,
                kv_tokens,
                kv_capacity,
                progress,
                memory_bytes,
                memory: WorkerMemory { weights, kv, kv_limit, kept_prefixes, mlx_active, mlx_cache },
            }
        },
    );
    prop_oneof![
        info.prop_map(Report::Ready),
        failure().prop_map(Report::LoadFailed),
        heartbeat.prop_map(Report::Heartbeat),
        vec(event(), 0..6).prop_map(Report::Events),
        Just(Report::Drained),
    ]
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
        submissions: vec![Submission::Generate(Box::new(Generate {
            id: RequestId(1),
            prompt: Prompt::Text("x".repeat(len)),
            sampling: Sampling::default(),
            max_tokens: None,
            stop: vec![],
            resume: vec![],
            ignore_eos: false,
            output: None,
            credit: 1,
            trace: None,
            correlation_id: None,
            arrived_micros: 0,
        }))],
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
    let answer = |tokens| one(StreamEventKind::Answered(Answer::Tokens(vec![7; tokens])));
    let pieces = |tokens| {
        let mut pieces = Pieces::with_capacity(tokens);
        (0..tokens).for_each(|_| pieces.push(7, b""));
        one(StreamEventKind::Answered(Answer::Pieces(pieces)))
    };
    let events = |count| {
        let kind = StreamEventKind::Prepared { prompt_tokens: 1 };
        Report::Events(vec![StreamEvent { id: RequestId(1), kind }; count])
    };
    for (within, beyond) in [
        (delta(MAX_DELTA_TOKENS), delta(MAX_DELTA_TOKENS + 1)),
        (answer(MAX_ANSWER_TOKENS), answer(MAX_ANSWER_TOKENS + 1)),
        (pieces(MAX_ANSWER_TOKENS), pieces(MAX_ANSWER_TOKENS + 1)),
        (events(MAX_EVENTS), events(MAX_EVENTS + 1)),
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
