#![allow(clippy::unwrap_used)]

use crossbeam_channel::{Receiver, bounded, unbounded};
use protocol::message::{Answer, EmbedInput, OperationKind, Prompt, TokenizeInput, Truncation};

use super::{super::lanes::LONG, *};

/// Requests arrive in `begun` when their preparation begins; it ends, refused, when something is in `gate`.
struct World {
    pool: Pool,
    requests: Arc<RequestTable>,
    begun: Receiver<RequestId>,
    gate: Sender<()>,
    events: Receiver<StreamEvent>,
    messages: Receiver<EngineMessage>,
}

struct Events(Sender<StreamEvent>);

impl ReportSink for Events {
    fn report(&self, report: &Report) {
        let Report::Events(events) = report else { panic!("{report:?}") };
        // A test may end before what it began.
        events.iter().for_each(|event| drop(self.0.send(event.clone())));
    }
}

/// Tells what begins, and refuses it when the gate lets it.
struct Gated {
    begins: Sender<RequestId>,
    opened: Receiver<()>,
}

impl Gated {
    fn refuse<T>(&self, id: RequestId) -> Result<T, Failure> {
        let _ = self.begins.send(id);
        let _ = self.opened.recv();
        Err(refusal())
    }
}

impl Prepare for Gated {
    fn prepare(&self, generate: Generate, _: Arc<RequestHandle>) -> Result<Sequence, Failure> {
        self.refuse(generate.id)
    }

    fn operate(&self, operation: Operation) -> Result<Operated, Failure> {
        match operation.kind {
            OperationKind::Embed(_) => {
                Ok(Operated::Prepared(PreparedInputs { inputs: vec![vec![7]], dimensions: None }))
            }
            OperationKind::Detokenize { .. } => Ok(Operated::Answered(Answer::Text("answered".into()))),
            _ => self.refuse(operation.id),
        }
    }
}

/// An operation that is answered at once.
fn quick() -> OperationKind {
    OperationKind::Detokenize { tokens: vec![1], skip_special_tokens: false }
}

/// One that waits for the gate.
fn gated() -> OperationKind {
    OperationKind::Count(TokenizeInput::new(Prompt::Text("x".into())))
}

/// A template or tokenizer that panics.
struct Panics;

impl Prepare for Panics {
    fn prepare(&self, _: Generate, _: Arc<RequestHandle>) -> Result<Sequence, Failure> {
        panic!("while it prepares")
    }

    fn operate(&self, _: Operation) -> Result<Operated, Failure> {
        panic!("while it answers")
    }
}

fn refusal() -> Failure {
    Failure { kind: FailureKind::InvalidRequest, param: None, message: "refused".into() }
}

impl World {
    fn new() -> Self {
        let (begins, begun) = unbounded();
        let (gate, opened) = unbounded::<()>();
        let (reports, events) = unbounded();
        let (engine, messages) = bounded(4096);
        let requests = Arc::new(RequestTable::default());
        let context = Context {
            preparer: Box::new(Gated { begins, opened }),
            requests: Arc::clone(&requests),
            reports: Arc::new(Events(reports)),
            engine,
        };
        Self { pool: Pool::start_with(context).unwrap(), requests, begun, gate, events, messages }
    }

    fn submit(&self, id: u64, bytes: usize) -> Result<(), Failure> {
        let id = RequestId(id);
        let request = self.requests.begin(id, 1).unwrap();
        let generate = Generate::new(id, Prompt::Text("x".repeat(bytes)), 1);
        self.pool.submit(Box::new(generate), request).inspect_err(|_| self.requests.end(id))
    }

    fn cancel(&self, id: u64) {
        self.requests.apply(&protocol::message::Submission::Cancel(RequestId(id)));
        self.pool.cancel(RequestId(id));
    }

    fn operate(&self, operations: Vec<(u64, OperationKind)>) {
        assert_eq!(self.try_operate(operations), []);
    }

    fn try_operate(&self, operations: Vec<(u64, OperationKind)>) -> Vec<(RequestId, Failure)> {
        let handles = self.requests.begin_all(operations.iter().map(|(id, _)| RequestId(*id)));
        let jobs = operations.into_iter().zip(handles).map(|((id, kind), request)| OperationJob {
            operation: Box::new(Operation { id: RequestId(id), kind }),
            request: request.unwrap(),
        });
        self.pool.submit_operations(jobs.collect())
    }

    /// Both threads at work: with a long request, and with a short one.
    fn busy() -> Self {
        let world = Self::new();
        world.submit(1, LONG + 1).unwrap();
        assert_eq!(world.begun.recv().unwrap(), RequestId(1));
        world.submit(2, 1).unwrap();
        assert_eq!(world.begun.recv().unwrap(), RequestId(2));
        world
    }
}

#[test]
fn long_prompts_leave_a_thread_to_short_ones() {
    let world = World::new();
    for id in 1..=3 {
        world.submit(id, LONG + 1).unwrap();
    }
    assert_eq!(world.begun.recv().unwrap(), RequestId(1));
    world.submit(4, 1).unwrap();
    assert_eq!(world.begun.recv().unwrap(), RequestId(4), "two long prompts wait before it");
    drop(world.gate);
}

#[test]
fn what_was_cancelled_while_it_waited_is_gone_at_once() {
    let world = World::busy();
    for id in 10..2_010 {
        world.submit(id, 1 << 20).unwrap();
        world.cancel(id);
        assert!(matches!(world.messages.try_recv(), Ok(EngineMessage::Wake)));
        assert!(world.requests.begin(RequestId(id), 1).is_some(), "{id} is still registered");
    }
    world.submit(3, 1).unwrap();
    for id in 1..=3 {
        world.gate.send(()).unwrap();
        assert_eq!(world.events.recv().unwrap().kind, StreamEventKind::Failed(refusal()), "{id}");
    }
    assert_eq!(world.begun.recv().unwrap(), RequestId(3), "nothing that was cancelled was prepared");
    assert!(world.begun.is_empty() && world.events.is_empty());
}

#[test]
fn what_was_cancelled_while_it_was_prepared_ends_in_silence() {
    let world = World::busy();
    world.cancel(1);
    world.cancel(2);
    world.gate.send(()).unwrap();
    world.gate.send(()).unwrap();
    // An engine that drains waits for the last one.
    assert!(matches!(world.messages.recv().unwrap(), EngineMessage::Wake));
    assert!(world.requests.is_empty() && world.messages.is_empty());
    assert!(world.events.is_empty());
}

#[test]
fn a_full_queue_is_overload() {
    let world = World::busy();
    let failures: Vec<Failure> = (10..5_000).filter_map(|id| world.submit(id, 1).err()).collect();
    assert_eq!(failures.len(), 4_990 - MAX_QUEUED);
    assert!(failures.iter().all(|failure| failure.kind == FailureKind::Overloaded), "{:?}", failures[0]);
    drop(world.gate);

    let world = World::busy();
    let bytes = (10..100).filter(|&id| world.submit(id, 8 << 20).is_ok()).count() * (8 << 20);
    assert_eq!(bytes, MAX_QUEUED_BYTES);
    assert_eq!(world.submit(100, 1).unwrap_err().kind, FailureKind::Overloaded);
    drop(world.gate);
}

#[test]
fn the_age_is_that_of_the_oldest_in_preparation() {
    let world = World::new();
    let age = world.pool.age();
    assert_eq!(age.oldest(), Duration::ZERO);
    world.submit(1, LONG + 1).unwrap();
    world.begun.recv().unwrap();
    let first = age.oldest();
    world.submit(2, 1).unwrap();
    world.begun.recv().unwrap();
    assert!(age.oldest() >= first, "the younger does not count");
    for _ in 0..2 {
        world.gate.send(()).unwrap();
        world.events.recv().unwrap();
    }
    // The threads note the end after they have told the engine: when they have gone, both have.
    let Pool { queue, .. } = &world.pool;
    let queue = Arc::clone(queue);
    drop(world);
    while Arc::strong_count(&queue) > 2 {
        thread::yield_now();
    }
    assert_eq!(age.oldest(), Duration::ZERO);
}

#[test]
fn an_operation_is_answered_and_never_reaches_the_engine() {
    let world = World::new();
    let operate = |id, kind| world.operate(vec![(id, kind)]);
    operate(1, quick());
    let answered = StreamEventKind::Answered(Answer::Text("answered".into()));
    assert_eq!(world.events.recv().unwrap(), StreamEvent { id: RequestId(1), kind: answered });
    assert!(matches!(world.messages.recv().unwrap(), EngineMessage::Wake));
    operate(2, gated());
    world.gate.send(()).unwrap();
    assert_eq!(world.events.recv().unwrap().kind, StreamEventKind::Failed(refusal()));
    assert!(matches!(world.messages.recv().unwrap(), EngineMessage::Wake));
    assert!(world.requests.is_empty());
}

#[test]
fn texts_to_embed_go_on_to_the_engine_unless_nobody_waits_for_them() {
    let world = World::busy();
    let input = || EmbedInput {
        inputs: vec![Prompt::Text("x".into())],
        first: 0,
        truncate: Truncation::Refuse,
        dimensions: None,
    };
    world.operate(vec![(7, OperationKind::Embed(input())), (8, OperationKind::Embed(input()))]);
    world.cancel(7);
    (0..2).for_each(|_| world.gate.send(()).unwrap());
    let embedded = world.messages.iter().find_map(|message| match message {
        EngineMessage::Embed(job) => Some(job),
        _ => None,
    });
    let job = embedded.unwrap();
    assert_eq!((job.id, &job.inputs), (RequestId(8), &vec![vec![7]]));
    assert!(!world.requests.is_empty(), "the engine ends it");
}

#[test]
fn small_operations_of_one_kind_are_answered_together_and_fail_alone() {
    let world = World::new();
    world.operate((1..=3).map(|id| (id, gated())).chain([(4, quick())]).collect());
    assert_eq!(world.begun.recv().unwrap(), RequestId(1));
    // The other thread does the other kind meanwhile.
    assert_eq!(world.events.recv().unwrap().id, RequestId(4));
    world.cancel(2);
    world.cancel(3);
    world.gate.send(()).unwrap();
    let event = world.events.recv().unwrap();
    assert_eq!((event.id, event.kind), (RequestId(1), StreamEventKind::Failed(refusal())));
    assert!(matches!(world.messages.recv().unwrap(), EngineMessage::Wake));
    assert!(world.requests.is_empty() && world.begun.is_empty() && world.events.is_empty());
    assert!(world.messages.is_empty(), "an engine is woken for the last one only");
}

#[test]
fn a_long_operation_does_not_keep_short_ones_waiting() {
    let world = World::new();
    let long = OperationKind::Count(TokenizeInput::new(Prompt::Text("x".repeat(LONG + 1))));
    world.operate(vec![
        (1, long.clone()),
        (2, long.clone()),
        (3, quick()),
        (4, OperationKind::CheckDraft { draft: "d".into() }),
    ]);
    assert_eq!(world.begun.recv().unwrap(), RequestId(1));
    assert_eq!(world.events.recv().unwrap().id, RequestId(3));
    world.cancel(2);
    for id in [1, 4] {
        world.gate.send(()).unwrap();
        assert_eq!(world.events.recv().unwrap().id, RequestId(id));
    }
    assert!(world.begun.try_iter().eq([RequestId(4)]), "2 was taken out of the queue");
}

#[test]
fn operations_beyond_the_queue_are_refused_alone() {
    let world = World::busy();
    let all: Vec<_> = (10..10 + MAX_QUEUED as u64 + 40).map(|id| (id, gated())).collect();
    let refused = world.try_operate(all);
    assert!((40..=40 + 32).contains(&refused.len()), "{}", refused.len());
    assert!(refused.iter().all(|(_, failure)| failure.kind == FailureKind::Overloaded));
    drop(world.gate);
}

#[test]
fn a_panic_is_the_failure_of_one_request() {
    let (reports, events) = unbounded();
    let (engine, messages) = bounded(16);
    let requests = Arc::new(RequestTable::default());
    let context = Context {
        preparer: Box::new(Panics),
        requests: Arc::clone(&requests),
        reports: Arc::new(Events(reports)),
        engine,
    };
    let (begins, begun) = unbounded();
    drop(begins);
    let (gate, _) = unbounded();
    let world = World { pool: Pool::start_with(context).unwrap(), requests, begun, gate, events, messages };
    for id in 0..4 {
        world.submit(id, 1).unwrap();
        let event = world.events.recv().unwrap();
        assert_eq!((event.id, event.kind), (RequestId(id), StreamEventKind::Failed(panicked())));
    }
}
