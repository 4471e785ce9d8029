//! The exact bytes of every message. A change here is a change of the protocol, which needs a new `VERSION`: only the
//! same version understands it. The frame's and the segment's bytes are pinned next to their code.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use std::fmt::Debug;

use protocol::{
    codec::{decode, encode},
    handshake::{HEADER_LEN, Hello, HelloAck, VERSION, read_hello},
    ids::{Incarnation, RequestId},
    memory::MemoryShare,
    message::{
        AdapterRef, Answer, Batch, ChatMessage, Constraint, ConstraintKind, Delta, DiskPrefixes, EmbedInput,
        Embeddings, Failure, FailureKind, FinishReason, Generate, Heartbeat, ModelInfo, Operation,
        OperationKind, OutputPart, PieceForm, Pieces, Prompt, Report, Sampling, StepTime, StreamEvent,
        StreamEventKind, Submission, TokenLogprob, TokenLogprobs, TokenizeInput, ToolCall, TraceContext,
        Truncation, Usage, Verified, WorkerMemory,
    },
    options::{Activations, KvType, Verify, WorkerOptions},
};
use serde::{Serialize, de::DeserializeOwned};

/// Checks both directions. Spaces in `expected` are for the reader.
#[track_caller]
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: T, expected: &str) {
    let mut bytes = Vec::new();
    encode(&message, &mut bytes).unwrap();
    assert_eq!(hex(&bytes), expected.replace(' ', ""), "of {message:?}");
    assert_eq!(decode::<T>(&bytes).unwrap(), message);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn generate(prompt: Prompt) -> Generate {
    Generate {
        id: RequestId(0x0102_0304_0506_0708),
        prompt,
        adapter: Some(AdapterRef { name: "m:a".into(), digest: "d0".into() }),
        sampling: Sampling {
            temperature: 0.5,
            top_p: 1.0,
            top_k: 40,
            min_p: 0.25,
            typical_p: 0.75,
            repetition_penalty: 2.0,
            presence_penalty: -1.0,
            frequency_penalty: 0.125,
            logit_bias: vec![(300, -2.0)],
            seed: 70_000,
            logprobs: Some(5),
        },
        max_tokens: Some(16),
        min_tokens: 3,
        stop: vec!["\n".into()],
        stop_tokens: vec![7, 300],
        include_stop: true,
        resume: vec![300, 7],
        ignore_eos: true,
        output: None,
        tools: Some("[]".into()),
        credit: 8,
        trace: Some(TraceContext { trace_id: *b"0123456789abcdef", span_id: *b"01234567", sampled: true }),
        correlation_id: Some("r1".into()),
        arrived_micros: 300,
    }
}

/// A generation after its prompt: adapter, sampling, `max_tokens`, `min_tokens`, `stop`, `stop_tokens`, `include_stop`, `resume`,
/// `ignore_eos`, `output`, `tools`, credit, `trace`, `correlation_id`, `arrived_micros`.
const REST: &str = "01 03 6d3a61 02 6430  0000003f 0000803f 28 0000803e 0000403f 00000040 000080bf 0000003e 01 fb2c01 000000c0 fc70110100 01 05 \
                    01 10  03  01 01 0a  02 07 fb2c01  01  02 fb2c01 07  01  00  01 02 5b5d  08 \
                    01 30313233343536373839616263646566 3031323334353637 01  01 02 7231  fb2c01";

/// Of [`WorkerOptions`].
const DEFAULT_OPTIONS: &str = "02 00 00 fd0000000001000000 01 00 40 fb0001 08 00 fc00000010 00 fbf401 \
                               fdffffffffffffffff fdffffffffffffffff 01 00";

fn event(kind: StreamEventKind) -> Report {
    Report::Events(vec![StreamEvent { id: RequestId(9), kind }])
}

fn failure(kind: FailureKind) -> Failure {
    Failure { kind, param: Some("n".into()), message: "no".into() }
}

#[test]
fn submissions() {
    let batch = |submission| Batch { submissions: vec![submission] };
    let id = "fd 0807060504030201";
    let message =
        |name: Option<&str>| ChatMessage { name: name.map(str::to_owned), ..ChatMessage::new("user", "hé") };
    let call = ToolCall { id: "c".into(), name: "f".into(), arguments: "{}".into() };
    let called = ChatMessage {
        reasoning: Some("r".into()),
        tool_calls: vec![call],
        tool_call_id: Some("d".into()),
        ..message(None)
    };
    check(Batch::default(), "00");
    let prompts = [
        (
            Prompt::Chat(vec![message(None), message(Some("A"))]),
            "00 02 04 75736572 03 68c3a9 00 00 00 00 04 75736572 03 68c3a9 01 01 41 00 00 00",
        ),
        (
            Prompt::Chat(vec![called]),
            "00 01 04 75736572 03 68c3a9 00 01 01 72 01 01 63 01 66 02 7b7d 01 01 64",
        ),
        (Prompt::Text("hi".into()), "01 02 6869"),
        (Prompt::Tokens(vec![1, 250, 251, 65_535, 65_536]), "02 05 01 fa fbfb00 fbffff fc00000100"),
    ];
    for (prompt, expected) in prompts {
        let expected = format!("01 00 {id} {expected} {REST}");
        check(batch(Submission::Generate(Box::new(generate(prompt)))), &expected);
    }
    check(batch(Submission::Cancel(RequestId(9))), "01 01 09");
    check(batch(Submission::Credit { id: RequestId(9), chunks: 3 }), "01 02 09 03");
    check(batch(Submission::Drain), "01 04");
}

#[test]
fn constraints() {
    let kinds = [
        (ConstraintKind::JsonObject, "00"),
        (ConstraintKind::JsonSchema("{}".into()), "01 02 7b7d"),
        (ConstraintKind::Regex("a+".into()), "02 02 612b"),
        (ConstraintKind::Choice(vec!["a".into(), "b".into()]), "03 02 01 61 01 62"),
        (ConstraintKind::Grammar("g".into()), "04 01 67"),
    ];
    for (kind, expected) in kinds {
        let output = Some(Constraint { kind, param: "n".into() });
        let generate = Generate { output, ..generate(Prompt::Text("hi".into())) };
        let rest = REST.replace("01  00  01", &format!("01  01 {expected} 01 6e  01"));
        let expected = format!("01 00 fd 0807060504030201 01 02 6869 {rest}");
        check(Batch { submissions: vec![Submission::Generate(Box::new(generate))] }, &expected);
    }
}

#[test]
fn operations() {
    let operation = |kind| {
        let operation = Operation { id: RequestId(9), kind };
        Batch { submissions: vec![Submission::Operation(Box::new(operation))] }
    };
    let input = |add_special_tokens| TokenizeInput {
        prompt: Prompt::Text("hi".into()),
        add_special_tokens,
        add_generation_prompt: !add_special_tokens,
    };
    check(operation(OperationKind::Tokenize(input(true))), "01 03 09 00 01 02 6869 01 00");
    check(operation(OperationKind::Count(input(false))), "01 03 09 01 01 02 6869 00 01");
    let detokenize = OperationKind::Detokenize { tokens: vec![7, 300], skip_special_tokens: true };
    check(operation(detokenize), "01 03 09 02 02 07 fb2c01 01");
    let messages = vec![ChatMessage::new("user", "hé")];
    let render = OperationKind::Render { messages, add_generation_prompt: true };
    check(operation(render), "01 03 09 03 01 04 75736572 03 68c3a9 00 00 00 00 01");
    check(operation(OperationKind::CheckDraft { draft: "hi".into() }), "01 03 09 04 02 6869");
    for (form, expected) in [(PieceForm::Vocabulary, "00"), (PieceForm::Bytes, "01")] {
        let expected = format!("01 03 09 05 01 02 6869 00 01 {expected}");
        check(operation(OperationKind::Pieces { input: input(false), form }), &expected);
    }
    for (truncate, expected) in
        [(Truncation::Refuse, "00"), (Truncation::ToModel, "01"), (Truncation::To(300), "02 fb2c01")]
    {
        let inputs = vec![Prompt::Text("hi".into()), Prompt::Tokens(vec![7])];
        let input = EmbedInput { inputs, first: 16, truncate, dimensions: Some(8) };
        let expected = format!("01 03 09 06 02 01 02 6869 02 01 07 10 {expected} 01 08");
        check(operation(OperationKind::Embed(input)), &expected);
    }
    check(event(StreamEventKind::Answered(Answer::Tokens(vec![7, 300]))), "03 01 09 04 00 02 07 fb2c01");
    check(event(StreamEventKind::Answered(Answer::Count(5))), "03 01 09 04 01 05");
    check(event(StreamEventKind::Answered(Answer::Text("ok".into()))), "03 01 09 04 02 02 6f6b");
    let reason = Some("no".into());
    let answer = Answer::DraftCheck { compatible: false, reason, vocab_size: 300, draft_vocab_size: 7 };
    check(event(StreamEventKind::Answered(answer)), "03 01 09 04 03 00 01 02 6e6f fb2c01 07");
    let mut pieces = Pieces::default();
    pieces.push(7, b"ab");
    pieces.push(300, b"");
    check(
        event(StreamEventKind::Answered(Answer::Pieces(pieces))),
        "03 01 09 04 04 02 07 fb2c01 02 02 00 02 6162",
    );
    let mut embeddings = Embeddings::default();
    embeddings.push(300, &[-0.5, 1.0]);
    check(
        event(StreamEventKind::Answered(Answer::Embeddings(embeddings))),
        "03 01 09 04 05 01 fb2c01 02 000000bf 0000803f",
    );
}

#[test]
fn reports() {
    let info = ModelInfo {
        name: "m".into(),
        digest: "ab".into(),
        architecture: "q".into(),
        context_length: 4096,
        vocab_size: 151_936,
        weight_bytes: 5_000_000_000,
        load_micros: 7,
        tokenizer_micros: 8,
        kv_bytes: 9,
        other_bytes: 10,
        draft_model: Some("d".into()),
        embedding_size: Some(384),
    };
    check(
        Report::Ready(info),
        "00 01 6d 02 6162 01 71 fb0010 fc80510200 fd00f2052a01000000 07 08 09 0a 01 01 64 01 fb8001",
    );
    check(Report::LoadFailed(failure(FailureKind::Internal)), "01 02 01 01 6e 02 6e6f");
    let heartbeat = Heartbeat {
        step: 1,
        runnable: 2,
        paused: 3,
        waiting: 4,
        oldest_preparation_millis: 5,
        kv_tokens: 6,
        kv_capacity: 7,
        progress: Some(8),
        memory_bytes: 9,
        memory: WorkerMemory {
            weights: 10,
            kv: 11,
            kv_limit: 12,
            kept_prefixes: 13,
            mlx_active: 14,
            mlx_cache: 15,
        },
        time: StepTime {
            schedule_micros: 16,
            build_micros: 17,
            evaluate_micros: 18,
            sample_micros: 19,
            emit_micros: 20,
            idle_micros: 21,
        },
        preemptions: 22,
        disk: DiskPrefixes { reads: 23, tokens: 24, bytes: 25 },
    };
    let memory = "09 0a 0b 0c 0d 0e 0f 10 11 12 13 14 15 16 17 18 19";
    check(Report::Heartbeat(heartbeat), &format!("02 01 02 03 04 05 06 07 01 08 {memory}"));
    let unseen = Heartbeat { progress: None, ..heartbeat };
    check(Report::Heartbeat(unseen), &format!("02 01 02 03 04 05 06 07 00 {memory}"));
    check(Report::Events(vec![]), "03 00");
    check(Report::Drained, "04");
    check(Report::Verified(Verified { bytes: 5_000_000_000, micros: 9 }), "05 fd00f2052a01000000 09");
    check(Report::Damaged(failure(FailureKind::DamagedModel)), "06 05 01 01 6e 02 6e6f");
}

#[test]
fn events() {
    check(event(StreamEventKind::Prepared { prompt_tokens: 5 }), "03 01 09 00 05");
    check(event(StreamEventKind::Started { cached_tokens: 300 }), "03 01 09 05 fb2c01");
    let delta = Delta { first_token: 300, tokens: [7][..].into(), text: "ok".into(), ..Delta::default() };
    assert_eq!(delta.token_range(), 300..301);
    check(event(StreamEventKind::Delta(delta.clone())), "03 01 09 01 fb2c01 01 07 02 6f6b 00 00");
    let likely =
        |token, bytes: &[u8]| TokenLogprob { token, logprob: -0.5, special: token == 7, bytes: bytes.into() };
    let logprobs = vec![TokenLogprobs { chosen: likely(7, b"ab"), top: vec![likely(300, b"")] }];
    check(
        event(StreamEventKind::Delta(Delta { logprobs, ..delta.clone() })),
        "03 01 09 01 fb2c01 01 07 02 6f6b 00 01 07 000000bf 01 02 6162 01 fb2c01 000000bf 00 00",
    );
    let parts = vec![
        OutputPart::Text("a".into()),
        OutputPart::Reasoning("b".into()),
        OutputPart::CallStart { index: 300, name: "f".into() },
        OutputPart::CallArguments { index: 0, json: "{}".into() },
    ];
    check(
        event(StreamEventKind::Delta(Delta { parts, ..delta })),
        "03 01 09 01 fb2c01 01 07 02 6f6b 04 00 01 61 01 01 62 02 fb2c01 01 66 03 00 02 7b7d 00",
    );
    let usage = Usage {
        prompt_tokens: 1,
        completion_tokens: 2,
        cached_tokens: 3,
        drafted_tokens: 5,
        accepted_tokens: 4,
    };
    for (reason, expected) in [(FinishReason::Stop, "00"), (FinishReason::Length, "01")] {
        let expected = format!("03 01 09 02 {expected} 01 02 03 05 04");
        check(event(StreamEventKind::Finished { reason, usage }), &expected);
    }
    let kinds = [
        (FailureKind::InvalidRequest, "00"),
        (FailureKind::ContextLengthExceeded, "01"),
        (FailureKind::Internal, "02"),
        (FailureKind::WorkerLost, "03"),
        (FailureKind::UnknownModel, "04"),
        (FailureKind::DamagedModel, "05"),
        (FailureKind::Overloaded, "06"),
        (FailureKind::TooLarge, "07"),
    ];
    for (kind, expected) in kinds {
        let expected = format!("03 01 09 03 {expected} 01 01 6e 02 6e6f");
        check(event(StreamEventKind::Failed(failure(kind))), &expected);
    }
}

#[test]
fn options() {
    let all = WorkerOptions {
        verify: Verify::Full,
        activations: Activations::Int8,
        kv_type: KvType::Float16,
        kv_bytes: 1 << 33,
        keep_prefixes: false,
        prefix_disk_bytes: 250,
        max_sequences: 300,
        chunk_tokens: 5,
        max_draft_tokens: 6,
        draft_model: Some("d".into()),
        adapter_bytes: 11,
        special_tokens_in_content: true,
        heartbeat_millis: 7,
        memory: MemoryShare { max_bytes: 8, left_bytes: 9, workers: 10, leaves_room: true },
    };
    check(all, "01 01 01 fd0000000002000000 00 fa fb2c01 05 06 01 01 64 0b 01 07 08 09 0a 01");
    check(WorkerOptions::default(), DEFAULT_OPTIONS);
    check(Verify::Header, "00");
}

#[test]
fn handshake() {
    let version = VERSION;
    let magic = "6b722d6d6c780d0a";
    let hello = Hello {
        version,
        incarnation: Incarnation(3),
        segment: "/s".into(),
        ring_bytes: 1 << 20,
        pid: 258,
        options: WorkerOptions::default(),
    };
    let bytes = hello.to_bytes().unwrap();
    let expected =
        format!("{magic} 0400 0600 3f000000  04 06 03 02 2f73 fc00001000 fb0201 {DEFAULT_OPTIONS}");
    assert_eq!(hex(&bytes), expected.replace(' ', ""));
    assert_eq!(read_hello(&mut &*bytes).unwrap(), hello);

    let acks = [
        (HelloAck::Accepted { version, pid: 9 }, "04000000  00 04 06 09"),
        (HelloAck::Refused { version, reason: "no".into() }, "06000000  01 04 06 02 6e6f"),
    ];
    for (ack, expected) in acks {
        let bytes = ack.to_bytes().unwrap();
        assert_eq!(hex(&bytes), format!("{magic} 0400 0600 {expected}").replace(' ', ""));
        let (header, body) = bytes.split_first_chunk::<HEADER_LEN>().unwrap();
        assert_eq!(HelloAck::from_parts(header, body).unwrap(), ack);
    }
}
