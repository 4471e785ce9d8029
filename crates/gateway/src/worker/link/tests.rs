//! The link's task over a real segment and a real socket, with the worker's ends in the same process.
#![allow(clippy::unwrap_used)]

mod peer;

use futures_util::FutureExt;
use protocol::{
    ids::RequestId,
    message::{Delta, FinishReason, ModelInfo, Prompt, StreamEventKind, Submission, Usage},
};

use self::peer::{RING_BYTES, World, soon, until};
use super::*;
use crate::worker::streams::StreamItem;

impl Link {
    /// Plays the worker: these events came from it.
    pub(crate) fn deliver(&self, events: impl IntoIterator<Item = protocol::message::StreamEvent>) {
        self.streams.deliver(events);
    }

    /// Plays the worker: what was queued for it since it was last asked.
    pub(crate) fn take_submissions(&self) -> Vec<protocol::message::Submission> {
        let mut body = Vec::new();
        let batch = batcher::encode(self.outbox.take(), &mut body).and_then(|()| codec::decode(&body));
        batch.map(|batch: protocol::message::Batch| batch.submissions).unwrap_or_default()
    }
}

fn generate(id: u64, credit: u32) -> Generate {
    Generate::new(RequestId(id), Prompt::Text("x".into()), credit)
}

fn chunk(text: &str) -> StreamEventKind {
    StreamEventKind::Delta(Delta { text: text.into(), ..Delta::default() })
}

fn finished() -> StreamEventKind {
    StreamEventKind::Finished { reason: FinishReason::Stop, usage: Usage::default() }
}

fn info() -> ModelInfo {
    ModelInfo {
        name: "m".into(),
        digest: "d".into(),
        architecture: "llama".into(),
        context_length: 64,
        vocab_size: 10,
        weight_bytes: 1,
        load_micros: 1,
        tokenizer_micros: 1,
    }
}

fn failure(message: &str) -> Failure {
    Failure { kind: FailureKind::DamagedModel, param: None, message: message.into() }
}

/// The stream's next event; `None` after its end.
async fn next(stream: &mut Stream) -> Option<StreamEventKind> {
    match soon("an item", stream.next()).await {
        Some(StreamItem::Event(event)) => Some(event),
        Some(StreamItem::Lost(loss)) => panic!("its worker is lost: {loss:?}"),
        None => None,
    }
}

/// How the stream loses its worker.
async fn lost(stream: &mut Stream) -> Loss {
    match soon("an item", stream.next()).await {
        Some(StreamItem::Lost(loss)) => loss,
        other => panic!("it is not lost: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_queued_together_is_shipped_as_one_batch() {
    let mut world = World::new().await;
    // The task runs only when the test waits.
    let streams =
        [1, 2, 3].map(|id| world.link.open(generate(id, 8), Progress::new(Instant::now())).unwrap());
    let batch = world.peer.next_batch().await;
    assert_eq!(batch, [1, 2, 3].map(|id| Submission::Generate(Box::new(generate(id, 8)))));
    assert_eq!((world.metrics.ship_frames.get(), world.metrics.ship_messages.get()), (1, 3));
    assert_eq!(world.link.live_streams(), 3);
    drop(streams);
    let batch = world.peer.next_batch().await;
    assert_eq!(batch, [1, 2, 3].map(|id| Submission::Cancel(RequestId(id))));
    assert_eq!(world.link.live_streams(), 0);
}

#[tokio::test]
async fn a_batch_larger_than_the_ring_arrives_whole_while_the_worker_reads() {
    let mut world = World::new().await;
    let large = Generate { prompt: Prompt::Text("x".repeat(RING_BYTES as usize * 5)), ..generate(1, 8) };
    let _stream = world.link.open(large.clone(), Progress::new(Instant::now())).unwrap();
    assert_eq!(world.peer.next_batch().await, [Submission::Generate(Box::new(large))]);
    assert_eq!(world.metrics.ship_frames.get(), 1);
}

#[tokio::test]
async fn events_are_delivered_to_their_streams() {
    let mut world = World::new().await;
    let [mut one, mut two] =
        [1, 2].map(|id| world.link.open(generate(id, 8), Progress::new(Instant::now())).unwrap());
    world.peer.events(&[(1, StreamEventKind::Prepared { prompt_tokens: 3 }), (2, chunk("b"))]).await;
    world.peer.events(&[(1, chunk("a")), (1, finished()), (9, chunk("unknown"))]).await;
    assert_eq!(next(&mut one).await, Some(StreamEventKind::Prepared { prompt_tokens: 3 }));
    assert_eq!(next(&mut one).await, Some(chunk("a")));
    assert_eq!(next(&mut one).await, Some(finished()));
    assert_eq!(next(&mut one).await, None);
    assert_eq!(next(&mut two).await, Some(chunk("b")));
    assert_eq!(world.link.live_streams(), 1);
    assert_eq!((world.metrics.deliver_frames.get(), world.metrics.deliver_messages.get()), (2, 5));
}

#[tokio::test]
async fn the_doorbell_is_rung_for_a_sleeping_worker_alone() {
    let mut world = World::new().await;
    let _awake = world.link.open(generate(1, 8), Progress::new(Instant::now())).unwrap();
    until("a batch", || world.peer.has_frame()).await;
    assert_eq!((world.metrics.doorbells_sent.get(), world.peer.doorbells()), (0, 0), "it was awake");
    world.peer.next_batch().await;
    world.peer.sleep();
    let _asleep = world.link.open(generate(2, 8), Progress::new(Instant::now())).unwrap();
    until("a doorbell", || world.metrics.doorbells_sent.get() == 1).await;
    let _more = world.link.open(generate(3, 8), Progress::new(Instant::now())).unwrap();
    until("both batches", || world.metrics.ship_frames.get() == 3).await;
    assert_eq!((world.metrics.doorbells_sent.get(), world.peer.doorbells()), (1, 1), "it is on its way");
}

#[tokio::test]
async fn a_sleeping_link_is_woken_by_the_doorbell() {
    let mut world = World::new().await;
    let mut stream = world.link.open(generate(1, 8), Progress::new(Instant::now())).unwrap();
    world.peer.next_batch().await;
    // It has nothing to do now, and says that it sleeps: only the doorbell wakes it.
    until("a sleeping link", || world.peer.send_quietly(&Report::Heartbeat(Heartbeat::default()))).await;
    assert_eq!(world.metrics.doorbells_received.get(), 0);
    world.peer.ring().await;
    world.peer.events(&[(1, finished())]).await;
    assert_eq!(next(&mut stream).await, Some(finished()));
    assert!(world.metrics.doorbells_received.get() >= 1);
}

#[tokio::test]
async fn a_worker_that_overspends_its_credit_must_cancel_that_stream_alone() {
    let mut world = World::new().await;
    let [mut one, mut two] =
        [1, 2].map(|id| world.link.open(generate(id, 1), Progress::new(Instant::now())).unwrap());
    world.peer.next_batch().await;
    world.peer.events(&[(1, chunk("a")), (1, chunk("b")), (2, chunk("c"))]).await;
    assert_eq!(world.peer.next_batch().await, [Submission::Cancel(RequestId(1))]);
    assert_eq!(next(&mut two).await, Some(chunk("c")));
    assert_eq!(world.peer.next_batch().await, [Submission::Credit { id: RequestId(2), chunks: 1 }]);
    assert_eq!(next(&mut one).await, Some(chunk("a")));
    let Some(StreamEventKind::Failed(failure)) = next(&mut one).await else { panic!("it goes on") };
    assert_eq!(failure.kind, FailureKind::Internal);
    assert!(world.link.is_alive());
}

#[tokio::test]
async fn a_frame_that_only_a_gateway_may_send_ends_the_link() {
    let mut world = World::new().await;
    world.peer.send_bytes(FrameKind::Batch, b"").await;
    assert!(matches!(world.end().await, LinkEnd::Kind(FrameKind::Batch)));
}

#[tokio::test]
async fn a_report_that_can_not_be_decoded_ends_the_link() {
    let mut world = World::new().await;
    world.peer.send_bytes(FrameKind::Report, b"\xff\xff").await;
    assert!(matches!(world.end().await, LinkEnd::Codec(_)));
}

#[tokio::test]
async fn a_description_of_any_length_ends_the_link() {
    let mut world = World::new().await;
    let long = ModelInfo { name: "x".repeat(MAX_DESCRIPTION), ..info() };
    world.peer.send(&Report::Ready(long)).await;
    assert!(matches!(world.end().await, LinkEnd::Description(len) if len > MAX_DESCRIPTION));
}

#[tokio::test]
async fn what_a_worker_published_before_its_socket_closed_is_delivered() {
    let mut world = World::new().await;
    let [mut one, mut two] =
        [1, 2].map(|id| world.link.open(generate(id, 8), Progress::new(Instant::now())).unwrap());
    world.peer.next_batch().await;
    until("a sleeping link", || world.peer.send_quietly(&Report::Heartbeat(Heartbeat::default()))).await;
    for n in 0..200 {
        world.peer.send_quietly(&Report::Heartbeat(Heartbeat { step: n, ..Heartbeat::default() }));
    }
    world.peer.send_quietly(&peer::events(&[(1, chunk("last")), (1, finished()), (2, chunk("half"))]));
    let link = world.link.clone();
    // Its process dies before it rings.
    assert!(matches!(world.close().await, LinkEnd::Closed));
    assert_eq!(link.heartbeat().step, 199);
    assert_eq!((next(&mut one).await, next(&mut one).await), (Some(chunk("last")), Some(finished())));
    assert_eq!(next(&mut two).await, Some(chunk("half")));
    assert!(two.next().now_or_never().is_none(), "its end is for the process's task to announce");
    let loss = Loss::Crashed("it died".into());
    link.lose_all(&loss);
    assert_eq!(lost(&mut two).await, loss);
    assert_eq!(link.open(generate(3, 8), Progress::new(Instant::now())).unwrap_err(), OpenError::Lost(loss));
    assert!(!link.is_alive());
}

#[tokio::test]
async fn a_process_that_ended_is_noticed_although_its_socket_is_open() {
    let mut world = World::new().await;
    let mut stream = world.link.open(generate(1, 8), Progress::new(Instant::now())).unwrap();
    world.peer.next_batch().await;
    until("a sleeping link", || world.peer.send_quietly(&Report::Heartbeat(Heartbeat::default()))).await;
    world.peer.send_quietly(&peer::events(&[(1, chunk("last"))]));
    let (end, _open) = world.exit().await;
    assert!(matches!(end, LinkEnd::Exited));
    assert_eq!(next(&mut stream).await, Some(chunk("last")), "what it had published is delivered");
}

#[tokio::test]
async fn streams_that_are_ended_by_force_are_cancelled_in_the_worker() {
    let mut world = World::new().await;
    let mut stream = world.link.open(generate(1, 8), Progress::new(Instant::now())).unwrap();
    world.peer.next_batch().await;
    world.link.fail_all("its model was unloaded");
    world.link.drain();
    assert_eq!(world.peer.next_batch().await, [Submission::Cancel(RequestId(1)), Submission::Drain]);
    assert!(matches!(next(&mut stream).await, Some(StreamEventKind::Failed(_))));
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test]
async fn a_request_that_was_never_sent_had_no_part_in_a_crash() {
    let mut world = World::new().await;
    let mut sent = world.link.open(generate(1, 8), Progress::new(Instant::now())).unwrap();
    world.peer.next_batch().await;
    let link = world.link.clone();
    assert!(matches!(world.close().await, LinkEnd::Closed));
    let mut unsent = link.open(generate(2, 8), Progress::new(Instant::now())).unwrap();
    link.lose_all(&Loss::Crashed("it died".into()));
    assert_eq!(lost(&mut sent).await, Loss::Crashed("it died".into()));
    assert_eq!(lost(&mut unsent).await, Loss::Left("it died".into()));
}

#[tokio::test]
async fn released_streams_can_go_on_elsewhere_and_are_cancelled_in_the_worker() {
    let mut world = World::new().await;
    let mut stream = world.link.open(generate(1, 8), Progress::new(Instant::now())).unwrap();
    world.peer.next_batch().await;
    world.link.release();
    soon("an idle link", world.link.idle()).await;
    world.link.drain();
    assert_eq!(world.peer.next_batch().await, [Submission::Cancel(RequestId(1)), Submission::Drain]);
    assert!(matches!(lost(&mut stream).await, Loss::Left(_)));
    assert!(world.link.is_alive() && !world.link.takes_streams());
}

#[tokio::test]
async fn a_closed_link_opens_nothing_and_goes_on_with_what_it_has() {
    let mut world = World::new().await;
    let mut stream = world.link.open(generate(1, 8), Progress::new(Instant::now())).unwrap();
    world.link.close();
    let refused = world.link.open(generate(2, 8), Progress::new(Instant::now())).unwrap_err();
    assert!(matches!(refused, OpenError::Lost(Loss::Left(_))));
    assert!(world.link.is_alive() && !world.link.takes_streams());
    let mut idle = std::pin::pin!(world.link.idle());
    assert!(idle.as_mut().now_or_never().is_none());
    world.peer.events(&[(1, chunk("a")), (1, finished())]).await;
    soon("an idle link", idle).await;
    assert_eq!((next(&mut stream).await, next(&mut stream).await), (Some(chunk("a")), Some(finished())));
}

#[tokio::test]
async fn reports_that_are_not_tied_to_a_stream_become_events() {
    let mut world = World::new().await;
    let heartbeat = Heartbeat { step: 7, runnable: 2, ..Heartbeat::default() };
    let verified = Verified { bytes: 5, micros: 1 };
    for report in [
        Report::Ready(info()),
        Report::LoadFailed(failure("no")),
        Report::Heartbeat(heartbeat),
        Report::Damaged(failure("a blob is damaged")),
        Report::Verified(verified),
        Report::Damaged(failure("again")),
        Report::Drained,
    ] {
        world.peer.send(&report).await;
    }
    let mut events = Vec::new();
    while events.last() != Some(&WorkerEvent::Drained) {
        events.push(world.event().await);
    }
    events.retain(|event| *event != WorkerEvent::Alive);
    let expected = [
        WorkerEvent::Loaded(info()),
        WorkerEvent::LoadFailed(failure("no")),
        WorkerEvent::Heartbeat(heartbeat),
        WorkerEvent::Verified(Err(failure("a blob is damaged"))),
        WorkerEvent::Drained,
    ];
    assert_eq!(events, expected, "a second outcome of a verification is ignored");
    assert_eq!(world.link.heartbeat(), heartbeat);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_sends_much_is_reported_alive_now_and_then() {
    let mut world = World::new().await;
    for step in 0..3 {
        for _ in 0..20 {
            let before = world.metrics.deliver_frames.get();
            world.peer.events(&[(9, chunk("x"))]).await;
            until("a frame", || world.metrics.deliver_frames.get() > before).await;
        }
        assert_eq!(world.events_so_far(), vec![WorkerEvent::Alive; usize::from(step > 0)]);
        tokio::time::advance(ALIVE_INTERVAL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_submission_waits_for_others_until_its_hold_window_ends() {
    let hold = Duration::from_millis(4);
    let mut world = World::with_batches(3, hold).await;
    let _one = world.link.open(generate(1, 8), Progress::new(Instant::now())).unwrap();
    world.link_sleeps().await;
    assert!(!world.peer.has_frame());
    tokio::time::advance(hold / 2).await;
    let _two = world.link.open(generate(2, 8), Progress::new(Instant::now())).unwrap();
    world.link_sleeps().await;
    assert!(!world.peer.has_frame(), "it counts from the first one");
    tokio::time::advance(hold / 2).await;
    assert_eq!(world.peer.next_batch().await.len(), 2);

    let _more = [3, 4].map(|id| world.link.open(generate(id, 8), Progress::new(Instant::now())).unwrap());
    world.link_sleeps().await;
    assert!(!world.peer.has_frame());
    let _last = world.link.open(generate(5, 8), Progress::new(Instant::now())).unwrap();
    assert_eq!(world.peer.next_batch().await.len(), 3, "a full batch does not wait");
}
