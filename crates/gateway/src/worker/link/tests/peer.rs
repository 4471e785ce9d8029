//! The worker's ends of a link, and the link under test.

use std::{collections::VecDeque, path::Path, thread, time::Instant};

use futures_util::{FutureExt, future};
use interprocess::local_socket::{
    GenericFilePath, ListenerOptions,
    tokio::{Stream as Socket, prelude::*},
};
use protocol::{
    frame::FrameSender,
    ids::Incarnation,
    message::{Batch, StreamEvent},
    shm::{Segment, Side},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::*;
use crate::{metrics::MetricRegistry, worker::id::WorkerId};

/// Of each ring.
pub(super) const RING_BYTES: u64 = 16 << 10;

/// Longer than anything takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct World {
    pub(super) link: Link,
    pub(super) metrics: LinkMetrics,
    pub(super) peer: Peer,
    events: mpsc::Receiver<(Incarnation, WorkerEvent)>,
    task: JoinHandle<LinkEnd>,
    exit: oneshot::Sender<()>,
}

/// What a worker process would own.
pub(super) struct Peer {
    socket: Socket,
    sender: FrameSender,
    receiver: FrameReceiver,
    received: VecDeque<Vec<Submission>>,
}

/// Waits by the real clock, with the test's own running or not.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(output) = future.as_mut().now_or_never() {
            return output;
        }
        give_way(what, deadline).await;
    }
}

/// Lets others work until `condition` holds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        give_way(what, deadline).await;
    }
}

async fn give_way(what: &str, deadline: Instant) {
    assert!(Instant::now() < deadline, "waited in vain for {what}");
    // Often enough for the runtime to look at its sockets.
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
    thread::yield_now();
}

pub(super) fn events(kinds: &[(u64, StreamEventKind)]) -> Report {
    let event = |(id, kind): &(u64, StreamEventKind)| StreamEvent { id: RequestId(*id), kind: kind.clone() };
    Report::Events(kinds.iter().map(event).collect())
}

impl World {
    /// Without a hold window.
    pub(super) async fn new() -> Self {
        Self::with_batches(64, Duration::ZERO).await
    }

    pub(super) async fn with_batches(max_batch_size: usize, flush_interval: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let incarnation = Incarnation(3);
        let (ours, theirs) = socket_pair(dir.path()).await;
        let gateway = Segment::create(dir.path().join("segment"), RING_BYTES).unwrap();
        let (reports, submissions) = Segment::open(gateway.path()).unwrap().into_ends(Side::Worker);
        let (producer, consumer) = gateway.into_ends(Side::Gateway);

        let all = WorkerMetrics::register(&mut MetricRegistry::new());
        let metrics = all.link(&WorkerId { model: "m".into(), number: 0 });
        let link = Link::new(BatchQueue { max_batch_size, flush_interval }, &all);
        let sender = FrameSender::new(producer, incarnation);
        let receiver = FrameReceiver::new(consumer, incarnation);
        let task = LinkTask::new(link.clone(), ours, sender, receiver, metrics.clone());
        let (events_sender, events) = mpsc::channel(64);
        let events_sender = EventSender::new(incarnation, events_sender);
        let (exit, exited) = oneshot::channel();
        // A process that is never said to have ended has not.
        let exited = async {
            if exited.await.is_err() {
                future::pending().await
            }
        };
        let task = tokio::spawn(async move { task.run(&events_sender, exited).await });
        let peer = Peer {
            socket: theirs,
            sender: FrameSender::new(reports, incarnation),
            receiver: FrameReceiver::new(submissions, incarnation),
            received: VecDeque::new(),
        };
        Self { link, metrics, peer, events, task, exit }
    }

    /// The link's next event.
    pub(super) async fn event(&mut self) -> WorkerEvent {
        let (incarnation, event) = soon("an event", self.events.recv()).await.unwrap();
        assert_eq!(incarnation, Incarnation(3));
        event
    }

    /// The events that wait to be received.
    pub(super) fn events_so_far(&mut self) -> Vec<WorkerEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|(_, event)| event).collect()
    }

    /// Why the link ends, which it does by itself.
    pub(super) async fn end(self) -> LinkEnd {
        soon("the link's end", self.task).await.unwrap()
    }

    /// Ends the worker's process, whose end of the socket stays open.
    pub(super) async fn exit(self) -> (LinkEnd, Peer) {
        let Self { peer, task, exit, mut events, .. } = self;
        exit.send(()).unwrap();
        let received = async { while events.recv().await.is_some() {} };
        (soon("the link's end", future::join(task, received)).await.0.unwrap(), peer)
    }

    /// Closes the worker's end of the socket.
    pub(super) async fn close(self) -> LinkEnd {
        let Self { peer, task, mut events, .. } = self;
        drop(peer);
        // The link waits while its events do.
        let received = async { while events.recv().await.is_some() {} };
        soon("the link's end", future::join(task, received)).await.0.unwrap()
    }

    /// Returns when the link has done all it has to do at this moment, and sleeps.
    pub(super) async fn link_sleeps(&mut self) {
        // What woke it is first in the queue of this test's only thread.
        give_way("nothing", Instant::now() + PATIENCE).await;
        until("a sleeping link", || self.peer.send_quietly(&Report::Heartbeat(Heartbeat::default()))).await;
    }
}

impl Peer {
    pub(super) async fn send(&mut self, report: &Report) {
        let mut body = Vec::new();
        codec::encode(report, &mut body).unwrap();
        self.send_bytes(FrameKind::Report, &body).await;
    }

    pub(super) async fn events(&mut self, kinds: &[(u64, StreamEventKind)]) {
        self.send(&events(kinds)).await;
    }

    /// Sends a frame that fits into the ring, and rings if the link sleeps.
    pub(super) async fn send_bytes(&mut self, kind: FrameKind, body: &[u8]) {
        loop {
            let (done, ring_bell) = match self.sender.send(kind, body).unwrap() {
                Sent::Done { ring_bell } => (true, ring_bell),
                Sent::Full { ring_bell } => (false, ring_bell),
            };
            if ring_bell {
                self.ring().await;
            }
            if done {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Sends a report without ringing. Returns whether the link sleeps, and so will not notice it.
    pub(super) fn send_quietly(&mut self, report: &Report) -> bool {
        let mut body = Vec::new();
        codec::encode(report, &mut body).unwrap();
        match self.sender.send(FrameKind::Report, &body).unwrap() {
            Sent::Done { ring_bell } => ring_bell,
            Sent::Full { .. } => panic!("the ring is too small for this test"),
        }
    }

    pub(super) async fn ring(&self) {
        let mut socket = &self.socket;
        soon("room for a doorbell", socket.write_all(&[BELL])).await.unwrap();
    }

    /// Doorbells that have come.
    pub(super) fn doorbells(&self) -> usize {
        let mut socket = &self.socket;
        socket.read(&mut [0; 64]).now_or_never().map_or(0, Result::unwrap)
    }

    /// Sets the flag of a sleeping reader.
    pub(super) fn sleep(&mut self) {
        assert_eq!(self.receiver.arm(), Armed::Sleep);
    }

    /// Whether a batch has come, read or not.
    pub(super) fn has_frame(&mut self) -> bool {
        if let Some(frame) = self.receiver.try_recv().unwrap() {
            assert_eq!(frame.kind, FrameKind::Batch);
            self.received.push_back(codec::decode::<Batch>(frame.body).unwrap().submissions);
        }
        !self.received.is_empty()
    }

    /// The submissions of the next batch.
    pub(super) async fn next_batch(&mut self) -> Vec<Submission> {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_frame() {
            if self.receiver.take_owed_bell() {
                self.ring().await;
            }
            give_way("a batch", deadline).await;
        }
        self.received.pop_front().unwrap()
    }
}

async fn socket_pair(dir: &Path) -> (Socket, Socket) {
    let path = dir.join("socket");
    let name = || path.as_path().to_fs_name::<GenericFilePath>().unwrap();
    let listener = ListenerOptions::new().name(name()).create_tokio().unwrap();
    let (ours, theirs) = soon("a connection", future::join(listener.accept(), Socket::connect(name()))).await;
    (ours.unwrap(), theirs.unwrap())
}
