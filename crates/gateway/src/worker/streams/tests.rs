#![allow(clippy::unwrap_used)]

use futures_util::FutureExt;
use protocol::{
    codec,
    message::{Answer, Batch, Delta, FinishReason, MAX_FAILURE_TEXT, Prompt, Submission, Usage},
};

use super::{entry::MAX_UNREAD, *};
use crate::{
    config::BatchQueue,
    metrics::MetricRegistry,
    worker::{batcher::Taken, metrics::WorkerMetrics},
};

struct World {
    streams: Arc<Streams>,
    outbox: Arc<Outbox>,
}

impl World {
    fn new() -> Self {
        let settings = BatchQueue { max_batch_size: 64, flush_interval: std::time::Duration::ZERO };
        let metrics = WorkerMetrics::register(&mut MetricRegistry::new()).streams("m");
        let outbox = Arc::new(Outbox::new(settings));
        Self { streams: Arc::new(Streams::new(Arc::clone(&outbox), metrics)), outbox }
    }

    fn open(&self, id: u64, credit: u32) -> Result<Stream, OpenError> {
        self.open_with(id, credit, "x")
    }

    fn open_with(&self, id: u64, credit: u32, prompt: &str) -> Result<Stream, OpenError> {
        let generate = self.generate(id, credit, prompt);
        self.streams.open(generate, Progress::new(Instant::now()))
    }

    fn generate(&self, id: u64, credit: u32, prompt: &str) -> Generate {
        Generate::new(RequestId(id), Prompt::Text(prompt.into()), credit)
    }

    fn submitted(&self) -> Vec<Submission> {
        let (mut taken, mut body) = (Taken::default(), Vec::new());
        self.outbox.take_batch(Instant::now(), &mut taken);
        taken.encode(&mut body).unwrap();
        codec::decode::<Batch>(&body).unwrap().submissions
    }

    /// Streams that the worker was ordered to stop since the last look at what was submitted.
    fn cancelled(&self) -> Vec<RequestId> {
        let cancelled = |it| if let Submission::Cancel(id) = it { Some(id) } else { None };
        self.submitted().into_iter().filter_map(cancelled).collect()
    }
}

fn event(id: u64, kind: StreamEventKind) -> StreamEvent {
    StreamEvent { id: RequestId(id), kind }
}

/// Text without tokens, which has no place among them.
fn chunk(text: &str) -> StreamEventKind {
    StreamEventKind::Delta(Delta { text: text.into(), ..Delta::default() })
}

fn tokens(first_token: u32, tokens: &[u32]) -> StreamEventKind {
    StreamEventKind::Delta(Delta { first_token, tokens: tokens.into(), ..Delta::default() })
}

fn finished() -> StreamEventKind {
    StreamEventKind::Finished { reason: FinishReason::Stop, usage: Usage::default() }
}

/// The stream's next event; `None` after its end.
fn now(stream: &mut Stream) -> Option<StreamEventKind> {
    match stream.next().now_or_never().expect("an item is ready") {
        Some(StreamItem::Event(event)) => Some(event),
        Some(StreamItem::Lost(loss)) => panic!("its worker is lost: {loss:?}"),
        None => None,
    }
}

/// How the stream loses its worker now.
fn lost(stream: &mut Stream) -> Loss {
    match stream.next().now_or_never().expect("an item is ready") {
        Some(StreamItem::Lost(loss)) => loss,
        other => panic!("it is not lost: {other:?}"),
    }
}

#[test]
fn events_go_to_their_streams_in_order_and_end_with_the_terminal_one() {
    let world = World::new();
    let (mut one, mut two) = (world.open(1, 8).unwrap(), world.open(2, 8).unwrap());
    world.streams.deliver(vec![event(1, chunk("a")), event(2, chunk("b")), event(1, finished())]);
    assert_eq!(now(&mut one), Some(chunk("a")));
    assert_eq!(now(&mut one), Some(finished()));
    assert_eq!(now(&mut one), None);
    assert_eq!(now(&mut two), Some(chunk("b")));
    assert!(two.next().now_or_never().is_none());
    assert_eq!(world.streams.len(), 1);
}

#[test]
fn nothing_follows_a_terminal_event() {
    let world = World::new();
    let mut one = world.open(1, 8).unwrap();
    world.streams.deliver(vec![event(1, finished()), event(1, finished()), event(1, chunk("late"))]);
    world.streams.deliver(vec![event(1, chunk("later"))]);
    assert_eq!((now(&mut one), now(&mut one)), (Some(finished()), None));
}

#[test]
fn credit_goes_back_in_batches_as_chunks_are_read() {
    let world = World::new();
    let mut one = world.open(1, 8).unwrap();
    world.submitted();
    world.streams.deliver((0..4).map(|_| event(1, chunk("x"))));
    now(&mut one);
    assert!(world.submitted().is_empty());
    now(&mut one);
    assert_eq!(world.submitted(), [Submission::Credit { id: RequestId(1), chunks: 2 }]);
}

#[test]
fn no_credit_is_sent_for_a_stream_that_has_ended() {
    let world = World::new();
    let mut one = world.open(1, 8).unwrap();
    world.submitted();
    world.streams.deliver((0..6).map(|_| event(1, chunk("x"))).chain([event(1, finished())]));
    while now(&mut one).is_some() {}
    assert!(world.submitted().is_empty());
}

#[test]
fn a_reader_that_keeps_up_gets_more_than_its_first_credit() {
    let world = World::new();
    let mut one = world.open(1, 2).unwrap();
    for _ in 0..100 {
        world.streams.deliver(vec![event(1, chunk("x"))]);
        assert_eq!(now(&mut one), Some(chunk("x")));
    }
    assert!(world.cancelled().is_empty());
}

#[test]
fn a_worker_that_overspends_ends_that_stream_alone() {
    let world = World::new();
    let (mut one, _two) = (world.open(1, 2).unwrap(), world.open(2, 2).unwrap());
    let events = (0..3).map(|_| event(1, chunk("x"))).chain([event(2, chunk("y"))]);
    world.submitted();
    world.streams.deliver(events);
    assert_eq!(world.cancelled(), [RequestId(1)]);
    assert_eq!((now(&mut one), now(&mut one)), (Some(chunk("x")), Some(chunk("x"))));
    assert!(matches!(now(&mut one), Some(StreamEventKind::Failed(f)) if f.kind == FailureKind::Internal));
    assert_eq!(now(&mut one), None);
    assert_eq!(world.streams.len(), 1);
}

#[test]
fn a_worker_that_sends_too_many_bytes_ends_that_stream_alone() {
    let world = World::new();
    let (mut one, _two) = (world.open(1, 8).unwrap(), world.open(2, 8).unwrap());
    let large = || event(1, chunk(&"x".repeat(MAX_UNREAD / 2 - 8)));
    world.submitted();
    world.streams.deliver(vec![large(), large()]);
    now(&mut one);
    world.streams.deliver(vec![large(), event(2, chunk("y"))]);
    assert!(world.cancelled().is_empty(), "there was room again");
    world.streams.deliver(vec![large()]);
    assert_eq!(world.cancelled(), [RequestId(1)]);
    now(&mut one);
    now(&mut one);
    assert!(matches!(now(&mut one), Some(StreamEventKind::Failed(f)) if f.kind == FailureKind::Internal));
    assert_eq!(world.streams.len(), 1);
}

#[test]
fn a_failure_of_any_length_is_cut() {
    let world = World::new();
    let mut one = world.open(1, 8).unwrap();
    let message = "é".repeat(MAX_FAILURE_TEXT);
    let failure = Failure { kind: FailureKind::Internal, param: Some(message.clone()), message };
    world.streams.deliver(vec![event(1, StreamEventKind::Failed(failure))]);
    let Some(StreamEventKind::Failed(failure)) = now(&mut one) else { panic!("not a failure") };
    assert_eq!((failure.message.len(), failure.param.unwrap().len()), (MAX_FAILURE_TEXT, MAX_FAILURE_TEXT));
}

#[test]
fn a_request_that_can_not_be_sent_fails_alone_and_opens_nothing() {
    let world = World::new();
    let _one = world.open(1, 8).unwrap();
    let refused = world.open_with(2, 8, &"x".repeat(codec::MAX_ENCODED)).unwrap_err();
    let OpenError::Unsendable(failure) = refused else { panic!("{refused:?}") };
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    assert_eq!((world.streams.len(), world.submitted().len()), (1, 1));
}

#[test]
fn streams_that_fail_one_by_one_leave_the_others() {
    let world = World::new();
    let (mut one, mut two) = (world.open(1, 8).unwrap(), world.open(2, 8).unwrap());
    let failure = Failure { kind: FailureKind::Internal, param: None, message: "no".into() };
    world.streams.fail(&[RequestId(1), RequestId(7)], &failure);
    assert_eq!((now(&mut one), now(&mut one)), (Some(StreamEventKind::Failed(failure)), None));
    world.streams.deliver(vec![event(2, finished())]);
    assert_eq!(now(&mut two), Some(finished()));
}

#[test]
fn dropping_a_live_stream_cancels_it_and_later_events_are_dropped() {
    let world = World::new();
    let one = world.open(1, 8).unwrap();
    world.submitted();
    drop(one);
    assert_eq!(world.submitted(), [Submission::Cancel(RequestId(1))]);
    world.streams.deliver(vec![event(1, chunk("x"))]);
    assert!(world.streams.is_empty() && world.submitted().is_empty());
}

#[test]
fn a_stream_is_never_cancelled_before_it_was_submitted() {
    let failure = Failure { kind: FailureKind::WorkerLost, param: None, message: "gone".into() };
    for _ in 0..200 {
        let world = World::new();
        let stream = std::thread::scope(|scope| {
            // It ends the stream as soon as that is in the table.
            scope.spawn(|| {
                while world.streams.is_empty() {
                    std::hint::spin_loop();
                }
                world.streams.fail_all(&failure).into_iter().for_each(|id| world.streams.cancel(id));
            });
            world.open(1, 8).unwrap()
        });
        drop(stream);
        assert_eq!(world.submitted(), [], "its request was queued before its cancel, which took it back");
    }
}

#[test]
fn dropping_an_ended_stream_cancels_nothing() {
    let world = World::new();
    let (unread, mut read) = (world.open(1, 8).unwrap(), world.open(2, 8).unwrap());
    world.submitted();
    world.streams.deliver(vec![event(1, finished()), event(2, finished())]);
    now(&mut read);
    drop((unread, read));
    assert!(world.submitted().is_empty());
}

#[test]
fn a_gap_in_the_tokens_ends_the_stream_and_no_other() {
    let world = World::new();
    for (deltas, whole) in [
        (vec![tokens(0, &[7]), tokens(1, &[8, 9]), tokens(3, &[7])], true),
        (vec![tokens(1, &[7])], false),
        (vec![tokens(0, &[7]), tokens(2, &[7])], false),
        (vec![tokens(0, &[7]), tokens(0, &[7])], false),
        (vec![StreamEventKind::Answered(Answer::Count(1))], false),
    ] {
        let (mut one, mut other) = (world.open(1, 8).unwrap(), world.open(2, 8).unwrap());
        let events = deltas.into_iter().map(|delta| event(1, delta)).chain([event(2, chunk("y"))]);
        world.submitted();
        world.streams.deliver(events);
        let broken = world.cancelled();
        assert_eq!(broken.is_empty(), whole, "{broken:?}");
        let last = std::iter::from_fn(|| one.next().now_or_never().flatten()).last();
        assert_eq!(matches!(last, Some(StreamItem::Event(StreamEventKind::Failed(_)))), !whole, "{last:?}");
        assert_eq!(now(&mut other), Some(chunk("y")));
    }
}

#[test]
fn a_resumed_stream_goes_on_behind_its_tokens() {
    let world = World::new();
    let generate = Generate { resume: vec![5, 6], ..world.generate(1, 8, "x") };
    let mut stream = world.streams.open(generate, Progress::new(Instant::now())).unwrap();
    world.streams.deliver(vec![event(1, tokens(2, &[7]))]);
    assert_eq!(now(&mut stream), Some(tokens(2, &[7])));
    assert!(world.cancelled().is_empty());
    world.streams.deliver(vec![event(1, tokens(0, &[5]))]);
    assert_eq!(world.cancelled(), [RequestId(1)]);
}

#[test]
fn a_request_is_prepared_once() {
    let world = World::new();
    let mut stream = world.open(1, 2).unwrap();
    let prepared = || event(1, StreamEventKind::Prepared { prompt_tokens: 1 });
    world.submitted();
    world.streams.deliver([prepared()]);
    assert!(now(&mut stream).is_some() && world.cancelled().is_empty());
    world.streams.deliver([prepared()]);
    assert!(matches!(now(&mut stream), Some(StreamEventKind::Failed(_))));
    assert_eq!(world.cancelled(), [RequestId(1)]);
}

#[test]
fn a_lost_worker_ends_every_stream_once_even_a_full_one_and_opens_none() {
    let world = World::new();
    let mut full = world.open(1, 2).unwrap();
    let (mut waiting, mut started) = (world.open(4, 2).unwrap(), world.open(5, 2).unwrap());
    world.submitted();
    let mut unsent = world.open(2, 2).unwrap();
    world.streams.deliver(vec![event(1, StreamEventKind::Prepared { prompt_tokens: 1 })]);
    world.streams.deliver(vec![event(1, chunk("a"))]);
    world.streams.deliver(vec![event(1, chunk("b"))]);
    world.streams.deliver([4, 5].map(|id| event(id, StreamEventKind::Prepared { prompt_tokens: 1 })));
    world.streams.deliver([event(5, StreamEventKind::Started { cached_tokens: 7 })]);
    assert_eq!((started.cached_tokens(), waiting.cached_tokens()), (7, 0));
    for stream in [&mut waiting, &mut started] {
        assert!(now(stream).is_some());
    }
    let loss = Loss::Crashed("gone".into());
    assert_eq!(world.streams.lose_all(&loss).len(), 4);
    let events = [(); 3].map(|()| now(&mut full).unwrap());
    assert_eq!(events[1..], [chunk("a"), chunk("b")]);
    assert_eq!((lost(&mut full), now(&mut full)), (loss.clone(), None));
    assert_eq!((lost(&mut unsent), now(&mut unsent)), (Loss::Left("gone".into()), None));
    assert_eq!((lost(&mut waiting), lost(&mut started)), (Loss::Left("gone".into()), loss.clone()));
    assert_eq!(world.open(3, 2).unwrap_err(), OpenError::Lost(loss));
}

#[test]
fn closed_streams_go_on_and_no_other_is_opened() {
    let world = World::new();
    let (mut one, two) = (world.open(1, 8).unwrap(), world.open(2, 8).unwrap());
    let leaving = Loss::Left("leaving".into());
    world.streams.close(leaving.clone());
    assert!(!world.streams.is_open());
    assert_eq!(world.open(3, 8).unwrap_err(), OpenError::Lost(leaving));
    let mut idle = std::pin::pin!(world.streams.idle());
    assert!(idle.as_mut().now_or_never().is_none());
    world.streams.deliver(vec![event(1, chunk("x")), event(1, finished())]);
    assert_eq!((now(&mut one), now(&mut one)), (Some(chunk("x")), Some(finished())));
    assert!(idle.as_mut().now_or_never().is_none(), "one is left");
    drop(two);
    assert!(idle.now_or_never().is_some());
}

#[test]
fn streams_that_fail_while_closed_say_why_they_failed() {
    let world = World::new();
    let mut one = world.open(1, 8).unwrap();
    let leaving = Loss::Left("leaving".into());
    let failure = Failure { kind: FailureKind::WorkerLost, param: None, message: "killed".into() };
    world.streams.close(leaving.clone());
    let idle = std::pin::pin!(world.streams.idle());
    assert_eq!(world.streams.fail_all(&failure), [RequestId(1)]);
    assert_eq!(now(&mut one), Some(StreamEventKind::Failed(failure)));
    assert!(idle.now_or_never().is_some());
    assert_eq!(world.open(2, 8).unwrap_err(), OpenError::Lost(leaving));
}
