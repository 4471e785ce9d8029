//! A whole worker over real rings and a real socket, in one process; the model is one of which the test says what it does.

#![allow(clippy::unwrap_used)]

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use crossbeam_channel::bounded;
use protocol::{
    frame::{FrameKind, FrameReceiver, FrameSender},
    handshake::{HelloAck, VERSION},
    ids::RequestId,
    message::{
        Answer, FinishReason, Generate, Operation, OperationKind, Prompt, Report, StreamEvent,
        StreamEventKind, Submission, TokenizeInput, max_report_bytes,
    },
    options::WorkerOptions,
    shm::{Segment, heap_ring},
};
use tempfile::TempDir;

use super::*;
use crate::{
    engine::{Engine, EngineStats, EosTokens},
    prepare::{Pool, Preparer, Settings, samples},
    report_sink::ReportSink,
    requests::RequestTable,
    schedule::Limits,
    testing::{
        FakeModel, Stream as Output,
        gateway::{self, Gateway, LIFE},
    },
};

const LIMITS: Limits = Limits {
    max_held_seqs: usize::MAX,
    max_num_seqs: 4,
    chunk_tokens: 8,
    max_num_batched_tokens: 12,
    kv_tokens: 10_000,
    unit_tokens: 1,
    keep_prefixes: false,
    max_draft_tokens: 0,
    windows: None,
};

/// The worker's threads, and how its reading ended.
struct Worker {
    link: JoinHandle<anyhow::Result<()>>,
    engine: JoinHandle<()>,
}

fn preparer() -> Preparer {
    let settings = Settings {
        template: None,
        eos_tokens: EosTokens::default(),
        context_length: 1000,
        kv_tokens: usize::MAX,
        vocab_size: samples::SMALL,
        special_tokens_in_content: false,
        embedding: None,
    };
    Preparer::new(samples::load(&samples::small()), settings)
}

/// A worker whose model goes on with "a", behind rings of `ring_bytes`.
fn start(ring_bytes: usize) -> (Gateway, Worker) {
    let (ours, theirs) = gateway::sockets();
    let ((to_worker, from_gateway), (to_gateway, from_worker)) =
        (heap_ring(ring_bytes), heap_ring(ring_bytes));
    let socket = Arc::new(theirs);
    let requests = Arc::new(RequestTable::default());
    let max_report = max_report_bytes(ring_bytes as u64);
    let frames = FrameSender::new(to_gateway, LIFE).with_max_body(max_report);
    let sender = Arc::new(LinkSender::new(frames, Arc::clone(&socket), Arc::clone(&requests)));
    let reports: Arc<dyn ReportSink> = Arc::clone(&sender) as _;
    let (engine, messages) = bounded(64);
    let pool = Pool::start(preparer(), Arc::clone(&requests), Arc::clone(&reports), engine.clone()).unwrap();
    let frames = FrameReceiver::new(from_gateway, LIFE);
    let mut receiver = Receiver { frames, socket, sender, requests: Arc::clone(&requests), pool, engine };
    let link = thread::spawn(move || receiver.read_all());
    let engine = thread::spawn(move || {
        let model = FakeModel::next(samples::SMALL, |_| 2);
        let stats = Arc::<EngineStats>::default();
        Engine::new(model, LIMITS, messages, requests, reports, stats).run().unwrap();
    });
    let gateway = Gateway::new(ours, to_worker, from_worker, max_report);
    (gateway, Worker { link, engine })
}

impl Worker {
    /// Waits for both threads, once the gateway has gone.
    fn join(self) -> anyhow::Result<()> {
        let result = self.link.join().unwrap();
        self.engine.join().unwrap();
        result
    }
}

fn generate(id: u64, credit: u32, max_tokens: u32) -> Submission {
    let generate = Generate::new(RequestId(id), Prompt::Text("ab".into()), credit);
    Submission::Generate(Box::new(Generate { max_tokens: Some(max_tokens), ..generate }))
}

fn is_end_of(id: u64) -> impl Fn(&StreamEvent) -> bool {
    move |event| event.id == RequestId(id) && event.kind.is_terminal()
}

/// Requests are prepared by several threads: the events of two can come in any order.
fn is_admission_of(id: u64) -> impl Fn(&StreamEvent) -> bool {
    move |event| event.id == RequestId(id) && matches!(event.kind, StreamEventKind::Prepared { .. })
}

fn output(events: Vec<StreamEvent>, id: u64) -> Output {
    let mut output = Output::default();
    events.into_iter().filter(|event| event.id == RequestId(id)).for_each(|event| output.push(event.kind));
    output
}

#[test]
fn requests_go_in_and_streams_come_out() {
    let (mut gateway, worker) = start(1 << 16);
    gateway.send(vec![generate(3, 0, 5)]);
    let mut events = gateway.events_until(is_admission_of(3));
    gateway.send(vec![generate(1, 100, 5), generate(2, 2, 5)]);
    events.extend(gateway.events_until(is_end_of(1)));
    gateway.send(vec![Submission::Cancel(RequestId(3)), Submission::Credit { id: RequestId(2), chunks: 9 }]);
    events.extend(gateway.events_until(is_end_of(2)));
    gateway.send(vec![Submission::Drain]);
    assert_eq!(gateway.report(), Report::Drained);

    for id in [1, 2] {
        let first = events.iter().find(|event| event.id == RequestId(id)).unwrap();
        assert_eq!(first.kind, StreamEventKind::Prepared { prompt_tokens: 2 });
        let output = output(events.clone(), id);
        assert_eq!((output.text.as_str(), output.chunks), ("aaaaa", 5));
        assert_eq!(output.reason(), Some(FinishReason::Length));
    }
    assert_eq!(output(events, 3).chunks, 0);
    drop(gateway);
    worker.join().unwrap();
}

#[test]
fn operations_are_answered_beside_streams() {
    let (mut gateway, worker) = start(1 << 16);
    let operation = |id, kind| Submission::Operation(Box::new(Operation { id: RequestId(id), kind }));
    let input =
        || TokenizeInput { add_special_tokens: false, ..TokenizeInput::new(Prompt::Text("ab".into())) };
    gateway.send(vec![generate(9, 0, 5), operation(1, OperationKind::Tokenize(input()))]);
    let answered = |events: Vec<StreamEvent>, id| {
        let mut kinds = events.into_iter().filter(|event| event.id == RequestId(id)).map(|event| event.kind);
        match (kinds.next(), kinds.next()) {
            (Some(StreamEventKind::Answered(answer)), None) => answer,
            other => panic!("{other:?}"),
        }
    };
    let Answer::Tokens(tokens) = answered(gateway.events_until(is_end_of(1)), 1) else {
        panic!("not tokens")
    };
    assert_eq!(tokens.len(), 2);
    gateway.send(vec![operation(2, OperationKind::Count(input()))]);
    assert_eq!(answered(gateway.events_until(is_end_of(2)), 2), Answer::Count(2));
    let detokenize = OperationKind::Detokenize { tokens, skip_special_tokens: true };
    gateway.send(vec![operation(3, detokenize), Submission::Cancel(RequestId(9))]);
    assert_eq!(answered(gateway.events_until(is_end_of(3)), 3), Answer::Text("ab".into()));
    // A drained worker has answered everything.
    gateway.send(vec![operation(4, OperationKind::Count(input())), Submission::Drain]);
    assert_eq!(answered(gateway.events_until(is_end_of(4)), 4), Answer::Count(2));
    assert_eq!(gateway.report(), Report::Drained);
    drop(gateway);
    worker.join().unwrap();
}

#[test]
fn operations_of_one_frame_are_answered_each_for_itself() {
    let (mut gateway, worker) = start(1 << 16);
    let operation = |id, kind| Submission::Operation(Box::new(Operation { id: RequestId(id), kind }));
    let count = |text: &str| OperationKind::Count(TokenizeInput::new(Prompt::Text(text.into())));
    let unknown = OperationKind::Detokenize { tokens: vec![99], skip_special_tokens: true };
    let mut frame: Vec<_> = (0..100).map(|id| operation(id, count(&"a".repeat(id as usize)))).collect();
    frame.extend([operation(100, unknown), operation(0, count("a")), Submission::Drain]);
    gateway.send(frame);
    let mut events = Vec::new();
    loop {
        match gateway.report() {
            Report::Events(more) => events.extend(more),
            Report::Drained => break,
            other => panic!("{other:?}"),
        }
    }
    let (mut twice, mut failed) = (0, 0);
    for StreamEvent { id, kind } in &events {
        match kind {
            StreamEventKind::Answered(answer) => assert_eq!(*answer, Answer::Count(id.0)),
            StreamEventKind::Failed(failure) if failure.message.contains("twice") => twice += 1,
            StreamEventKind::Failed(failure) => failed += usize::from(failure.message.contains("99")),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((events.len(), twice, failed), (102, 1, 1));
    drop(gateway);
    worker.join().unwrap();
}

#[test]
fn reports_wait_for_space_in_a_small_ring() {
    let (mut gateway, worker) = start(1 << 10);
    for id in 0..4 {
        gateway.send(vec![generate(id, 1000, 200)]);
    }
    let mut outputs = vec![Output::default(); 4];
    while outputs.iter().any(|output| output.end.is_none()) {
        let Report::Events(events) = gateway.report() else { panic!("not events") };
        events.into_iter().for_each(|event| outputs[event.id.0 as usize].push(event.kind));
    }
    assert!(outputs.iter().all(|output| output.text == "a".repeat(200)));
    gateway.send(vec![Submission::Drain]);
    assert_eq!(gateway.report(), Report::Drained);
    drop(gateway);
    worker.join().unwrap();
}

#[test]
fn what_can_not_be_prepared_is_answered() {
    let (mut gateway, worker) = start(1 << 16);
    let mut empty = generate(1, 9, 5);
    if let Submission::Generate(generate) = &mut empty {
        generate.prompt = Prompt::Tokens(Vec::new());
    }
    gateway.send(vec![empty]);
    assert_eq!(
        output(gateway.events_until(is_end_of(1)), 1).failure(),
        "the prompt is empty: there is nothing to continue"
    );
    gateway.send(vec![generate(2, 0, 5)]);
    gateway.events_until(is_admission_of(2));
    gateway.send(vec![generate(2, 0, 5)]);
    assert!(output(gateway.events_until(is_end_of(2)), 2).failure().contains("submitted twice"));
    gateway.send(vec![Submission::Cancel(RequestId(2)), Submission::Drain]);
    assert_eq!(gateway.report(), Report::Drained);
    drop(gateway);
    worker.join().unwrap();
}

#[test]
fn what_is_no_batch_breaks_the_link() {
    let send: [fn(&mut Gateway); 2] = [
        |gateway| gateway.send_frame(FrameKind::Report, &[]),
        |gateway| gateway.send_frame(FrameKind::Batch, &[255; 9]),
    ];
    for send in send {
        let (mut gateway, worker) = start(1 << 12);
        send(&mut gateway);
        assert!(worker.join().is_err());
    }
}

/// What [`connect`] makes of `hello`, and the answer that the gateway gets.
fn shake_hands(hello: impl FnOnce(&TempDir) -> Vec<u8>) -> (anyhow::Result<Connected>, HelloAck) {
    let (listener, path, dir) = gateway::listen();
    let connecting = thread::spawn(move || connect(&path));
    let (_, ack) = gateway::greet(&listener, &hello(&dir));
    (connecting.join().unwrap(), ack)
}

#[test]
fn the_options_are_those_of_the_greeting() {
    let options = WorkerOptions { max_sequences: 5, ..WorkerOptions::default() };
    let mut segment = None;
    let (connected, ack) = shake_hands(|dir| {
        let created = segment.insert(Segment::create(dir.path().join("segment"), 1 << 16).unwrap());
        gateway::hello(created.path(), options.clone())
    });
    assert_eq!(connected.unwrap().options, options);
    assert_eq!(ack, HelloAck::Accepted { version: VERSION, pid: std::process::id() });
}

#[test]
fn a_gateway_that_can_not_be_understood_is_told_why() {
    let (connected, ack) = shake_hands(|_| b"GET / HTTP/1.1\r\n\r\n".to_vec());
    assert!(connected.is_err());
    assert!(
        matches!(&ack, HelloAck::Refused { reason, .. } if reason.contains("not part of kr-serve")),
        "{ack:?}"
    );
    let (connected, ack) =
        shake_hands(|dir| gateway::hello(&dir.path().join("absent"), WorkerOptions::default()));
    assert!(connected.is_err());
    assert!(matches!(&ack, HelloAck::Refused { reason, .. } if reason.contains("absent")), "{ack:?}");
}

#[test]
fn without_a_gateway_there_is_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let error = connect(&dir.path().join("socket")).err().unwrap();
    assert!(error.to_string().contains("no gateway listens at"), "{error}");
}
