//! Stage *ship*, and the way back: one task per worker process owns both rings' gateway ends.
//!
//! ```text
//! Outbox (batcher) ── batch ──► encode ──► request ring ──► worker
//! Streams, operations, events ◄── dispatch ◄── decode ◄── report ring ◄── worker
//! ```
//!
//! The task sleeps when there is nothing to ship and nothing to read, and wakes for a submission, the
//! end of a hold window, or a doorbell on the socket. The worker is dead when the socket closes or its process ends.

mod end;
mod give_way;
#[cfg(test)]
mod played;
mod ship;
mod shipment;

use std::{
    borrow::Borrow,
    convert::Infallible,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use interprocess::local_socket::tokio::Stream as Socket;
use protocol::{
    busy_poll::BusyPoll,
    codec,
    frame::{BELL, FrameKind, FrameReceiver, FrameSender},
    ids::RequestId,
    message::{Failure, FailureKind, Generate, Heartbeat, OperationKind, Report, StreamEvent, Verified},
    shm::Armed,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::coop::unconstrained,
    time::sleep_until,
};
use tracing::{debug_span, warn};

pub use self::end::LinkEnd;
use self::{give_way::give_way, shipment::Shipment};
use super::{
    batcher::Queued,
    event::{EventSender, WorkerEvent},
    loss::Loss,
    metrics::{LinkMetrics, StreamMetrics},
    operations::{Operate, Operations},
    outbox::Outbox,
    streams::{OpenError, Progress, Stream, Streams},
};
use crate::config::BatchQueue;

/// One worker process, as requests use it. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Link {
    /// The last one that came.
    heartbeat: Arc<Mutex<Heartbeat>>,
    outbox: Arc<Outbox>,
    streams: Arc<Streams>,
    operations: Arc<Operations>,
    alive: Arc<AtomicBool>,
}

/// What the task owns.
pub struct LinkTask {
    link: Link,
    socket: Socket,
    sender: FrameSender,
    receiver: FrameReceiver,
    metrics: LinkMetrics,
    shipment: Shipment,
    busy_poll: BusyPoll,
    /// Those who wait for the answers of a report; reused.
    wakers: Vec<Waker>,
    /// When an event last reported that the worker is alive.
    alive_sent: Instant,
    /// The outcome of a verification was sent. It is sent once, however often the worker reports one.
    verification_sent: bool,
}

/// Most bytes of a model's name, digest and architecture together.
const MAX_DESCRIPTION: usize = 16 << 10;

/// Shortest time between two [`WorkerEvent::Alive`], however many frames come.
const ALIVE_INTERVAL: Duration = Duration::from_millis(50);

impl Link {
    /// For a process that is about to be started. `metrics` are its model's.
    pub fn new(settings: BatchQueue, metrics: StreamMetrics) -> Self {
        let outbox = Arc::new(Outbox::new(settings));
        Self {
            heartbeat: Arc::default(),
            streams: Arc::new(Streams::new(Arc::clone(&outbox), metrics)),
            outbox,
            operations: Arc::default(),
            alive: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Opens a stream, at its beginning or where another worker left it, and queues its request.
    ///
    /// # Errors
    /// The worker is gone or about to leave, or the request is too large for it.
    pub fn open(&self, generate: Generate, progress: Progress) -> Result<Stream, OpenError> {
        self.streams.open(generate, progress)
    }

    /// Asks the worker for something that has a single answer. An `urgent` operation is not held for others to share
    /// its frame. Nothing is sent before the future is polled; dropping it cancels the operation. It fails if the
    /// worker does, if the operation is too large to be sent, or if the worker dies first.
    pub fn operate<K>(&self, kind: K, urgent: bool) -> Operate<'_, K>
    where
        K: Borrow<OperationKind> + Unpin,
    {
        self.operations.operate(&self.outbox, kind, urgent)
    }

    /// Operations that the worker has not answered.
    pub fn open_operations(&self) -> usize {
        self.operations.len()
    }

    /// Ships what is queued without holding it any longer.
    pub fn hurry(&self) {
        self.outbox.hurry();
    }

    /// The worker's last heartbeat; all zero before the first.
    pub fn heartbeat(&self) -> Heartbeat {
        *self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace_heartbeat(&self, heartbeat: Heartbeat) -> Heartbeat {
        let mut last = self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *last, heartbeat)
    }

    /// Streams that are live on this worker.
    pub fn live_streams(&self) -> usize {
        self.streams.len()
    }

    /// Tokens that the worker has still to compute for its live streams, as far as can be told.
    pub fn outstanding_tokens(&self) -> u64 {
        self.streams.load.outstanding()
    }

    /// Whether the worker can still be reached, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Whether it takes new streams and operations, as far as is known.
    pub fn takes_streams(&self) -> bool {
        self.is_alive() && self.streams.is_open()
    }

    /// Opens no further streams and takes no further operations; those that are live go on.
    pub fn close(&self) {
        self.operations.close(operation_lost(LEAVING));
        self.streams.close(Loss::Left(LEAVING.into()));
    }

    /// Opens no further streams, and ends those that are live, and operations: another worker can do them.
    pub fn release(&self) {
        self.cancel(self.streams.lose_all(&Loss::Left(LEAVING.into())));
        self.cancel(self.operations.fail_all(operation_lost(LEAVING)));
    }

    /// Returns when no stream is live and no operation open. Only after [`Link::close`] it stays so.
    pub async fn idle(&self) {
        self.streams.idle().await;
        self.operations.idle().await;
    }

    /// Asks the worker to finish and exit.
    pub fn drain(&self) {
        self.outbox.push(Queued::Drain);
    }

    /// Ends every live stream with one error event and fails every operation, and takes no further ones. No other
    /// worker continues the streams.
    pub fn fail_all(&self, why: &str) {
        self.alive.store(false, Ordering::Relaxed);
        let message = format!("the request was ended: {why}; send it again");
        let failure = Failure { kind: FailureKind::WorkerLost, param: None, message };
        self.cancel(self.streams.fail_all(&failure));
        self.cancel(self.operations.fail_all(failure));
    }

    /// The worker is gone, for the reason `loss`: ends every live stream with it, and every operation, and takes no
    /// further ones.
    pub fn lose_all(&self, loss: &Loss) {
        self.alive.store(false, Ordering::Relaxed);
        self.streams.lose_all(loss);
        self.operations.fail_all(operation_lost(loss.reason()));
    }

    /// Orders a worker that may be alive to forget these streams and operations.
    fn cancel(&self, ended: Vec<RequestId>) {
        ended.into_iter().for_each(|id| self.outbox.push(Queued::Cancel(id)));
    }
}

/// Why a worker that is about to leave refuses a stream.
const LEAVING: &str = "the worker is about to leave";

/// For an operation whose worker is gone or leaves, for the reason `why`: another worker is asked.
fn operation_lost(why: &str) -> Failure {
    let message = format!("the worker for this request was lost: {why}; send the request again");
    Failure { kind: FailureKind::WorkerLost, param: None, message }
}

impl LinkTask {
    /// The task of `link`, over what the handshake yielded.
    pub fn new(
        link: Link,
        socket: Socket,
        sender: FrameSender,
        receiver: FrameReceiver,
        metrics: LinkMetrics,
    ) -> Self {
        Self {
            link,
            socket,
            sender,
            receiver,
            metrics,
            shipment: Shipment::default(),
            busy_poll: BusyPoll::default(),
            wakers: Vec::new(),
            alive_sent: now(),
            verification_sent: false,
        }
    }

    /// Runs until the worker is gone, as `exited` says or the socket shows, or breaks the protocol. What it had published
    /// before is delivered. Messages that are not tied to a stream become `events`.
    pub async fn run(mut self, events: &EventSender, exited: impl Future<Output = ()>) -> LinkEnd {
        let end = match self.exchange(events, pin!(exited)).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        if let LinkEnd::Closed | LinkEnd::Exited | LinkEnd::Socket(_) = end {
            // What it published before it died. An error in that does not change why the link ended.
            while let Ok(true) = self.receive(events).await {}
        }
        end
    }

    async fn exchange(
        &mut self,
        events: &EventSender,
        mut exited: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Infallible, LinkEnd> {
        let mut doorbells = [0; 256];
        loop {
            let more = self.receive(events).await?;
            let hold = self.ship()?;
            if self.receiver.take_owed_bell() {
                self.ring_doorbell();
            }
            if more || self.busy_poll.looks_on(Instant::now()) || self.receiver.arm() == Armed::Ready {
                // Other tasks need this thread, too.
                tokio::task::yield_now().await;
                continue;
            }
            let held = async {
                match hold {
                    Some(until) => sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            let mut socket = &self.socket;
            tokio::select! {
                read = socket.read(&mut doorbells) => match read? {
                    0 => return Err(LinkEnd::Closed),
                    count => { self.metrics.received.wakeups.inc_by(count as u64); }
                },
                () = &mut exited => return Err(LinkEnd::Exited),
                // Whoever else is ready to submit something does so first: the runtime runs a task that was woken
                // before those that have waited for longer, and each would get a frame of its own.
                () = self.link.outbox.pushed() => give_way().await,
                () = held => {}
            }
        }
    }

    /// Dispatches some reports; true if there may be more.
    async fn receive(&mut self, events: &EventSender) -> Result<bool, LinkEnd> {
        /// Frames that are read before submissions get their turn.
        const RECEIVE_AT_ONCE: usize = 64;
        for _ in 0..RECEIVE_AT_ONCE {
            let Some(frame) = self.receiver.try_recv()? else { return Ok(false) };
            if frame.kind != FrameKind::Report {
                return Err(LinkEnd::Kind(frame.kind));
            }
            self.busy_poll.found(Instant::now());
            let report = codec::decode::<Report>(frame.body)?;
            let received = &self.metrics.received;
            received.frames.inc();
            received.bytes.inc_by(frame.body.len() as u64);
            self.dispatch(report, events).await?;
            if self.receiver.take_owed_bell() {
                self.ring_doorbell();
            }
        }
        Ok(true)
    }

    async fn dispatch(&mut self, report: Report, events: &EventSender) -> Result<(), LinkEnd> {
        let count = &self.metrics.received.messages;
        match report {
            Report::Events(delivered) => {
                count.inc_by(delivered.len() as u64);
                self.deliver(delivered);
            }
            Report::Ready(info) => {
                let draft = info.draft_model.as_ref().map_or(0, String::len);
                let described = info.name.len() + info.digest.len() + info.architecture.len() + draft;
                if described > MAX_DESCRIPTION {
                    return Err(LinkEnd::Description(described));
                }
                events.send(WorkerEvent::Loaded(info)).await;
            }
            Report::LoadFailed(mut failure) => {
                failure.shorten();
                events.send(WorkerEvent::LoadFailed(failure)).await;
            }
            Report::Verified(verified) => self.verified(Ok(verified), events).await,
            Report::Damaged(failure) => self.verified(Err(failure), events).await,
            Report::Heartbeat(heartbeat) => {
                count.inc();
                self.alive_sent = now();
                self.metrics.set_work(&heartbeat);
                let before = self.link.replace_heartbeat(heartbeat);
                self.metrics.count_work(&before, &heartbeat);
                events.send(WorkerEvent::Heartbeat(heartbeat)).await;
                return Ok(());
            }
            Report::Drained => events.send(WorkerEvent::Drained).await,
        }
        let now = now();
        if now - self.alive_sent >= ALIVE_INTERVAL {
            self.alive_sent = now;
            events.send(WorkerEvent::Alive).await;
        }
        Ok(())
    }

    fn deliver(&mut self, mut events: Vec<StreamEvent>) {
        let _span = debug_span!("deliver", events = events.len()).entered();
        for id in self.link.operations.deliver(&mut events, &mut self.wakers) {
            warn!(%id, "the worker broke the rules of the operation; the operation was ended");
            self.link.outbox.push(Queued::Cancel(id));
        }
        if !events.is_empty() {
            self.link.streams.deliver(events);
        }
    }

    async fn verified(&mut self, mut outcome: Result<Verified, Failure>, events: &EventSender) {
        if std::mem::replace(&mut self.verification_sent, true) {
            return;
        }
        if let Err(failure) = &mut outcome {
            failure.shorten();
        }
        events.send(WorkerEvent::Verified(outcome)).await;
    }

    /// If the socket's buffer is full, a doorbell is pending already; if it is closed, reading will tell.
    fn ring_doorbell(&self) {
        let mut socket = &self.socket;
        // Without a constraint: a task that has done much would be told to wait, and the doorbell be lost.
        if let Some(Ok(1)) = unconstrained(socket.write(&[BELL])).now_or_never() {
            self.metrics.sent.wakeups.inc();
        }
    }
}

/// By the clock of [`sleep_until`], which a test may pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
