//! Stage *ship*, and the way back: one task per worker process owns both rings' gateway ends.
//!
//! ```text
//! Outbox (batcher) ── batch ──► encode ──► request ring ──► worker
//! Streams, events ◄── dispatch ◄── decode ◄── report ring ◄── worker
//! ```
//!
//! The task sleeps when there is nothing to ship and nothing to read, and wakes for a submission, the
//! end of a hold window, or a doorbell on the socket. The worker is dead when the socket closes or its process ends.

mod ship;

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use interprocess::local_socket::tokio::Stream as Socket;
use protocol::{
    codec::{self, CodecError},
    frame::{FrameError, FrameKind, FrameReceiver, FrameSender},
    ids::RequestId,
    message::{Failure, FailureKind, Generate, Heartbeat, Report, Verified},
    shm::Armed,
};
use tokio::{io::AsyncReadExt, time::sleep_until};
use tracing::{debug_span, warn};

use super::{
    batcher::Queued,
    event::{EventSender, WorkerEvent},
    loss::Loss,
    metrics::{LinkMetrics, StreamMetrics},
    outbox::Outbox,
    streams::{OpenError, Progress, Stream, Streams},
};
use crate::{config::BatchQueue, trace::StageSpan};

/// One worker process, as requests use it. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Link {
    /// The last one that came.
    heartbeat: Arc<Mutex<Heartbeat>>,
    outbox: Arc<Outbox>,
    streams: Arc<Streams>,
    alive: Arc<AtomicBool>,
}

/// What the task owns.
pub struct LinkTask {
    link: Link,
    socket: Socket,
    sender: FrameSender,
    receiver: FrameReceiver,
    metrics: LinkMetrics,
    /// The encoded batch; reused.
    body: Vec<u8>,
    /// Submissions in `body` if it was not (wholly) sent yet, else 0.
    unsent: usize,
    /// The requests among them, in their traces.
    shipping: Vec<StageSpan>,
    /// When an event last reported that the worker is alive.
    alive_sent: Instant,
    /// The outcome of a verification was sent. It is sent once, however often the worker reports one.
    verification_sent: bool,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The worker's end of the socket is closed: it is dead, or will be soon.
    #[error("its socket closed")]
    Closed,
    /// The worker's process has ended, though its end of the socket may be open in another one.
    #[error("its process ended")]
    Exited,
    /// The socket broke.
    #[error("its socket failed")]
    Socket(#[from] io::Error),
    /// The shared memory or a frame in it is invalid.
    #[error("its shared memory can't be used")]
    Frame(#[from] FrameError),
    /// A message could not be decoded.
    #[error("a message from it is broken")]
    Codec(#[from] CodecError),
    /// Its description of the model is longer than that of any model.
    #[error("it described its model in {0} bytes")]
    Description(usize),
    /// It sent a frame that only a gateway may send.
    #[error("it sent a frame of kind {0:?}")]
    Kind(FrameKind),
}

/// Most bytes of a model's name, digest and architecture together.
const MAX_DESCRIPTION: usize = 16 << 10;

/// Shortest time between two [`WorkerEvent::Alive`], however many frames come.
const ALIVE_INTERVAL: Duration = Duration::from_millis(50);

impl Link {
    /// For a process that is about to be started. `metrics` are its model's.
    pub fn new(settings: BatchQueue, metrics: StreamMetrics) -> Self {
        Self {
            heartbeat: Arc::default(),
            outbox: Arc::new(Outbox::new(settings)),
            streams: Arc::new(Streams::new(metrics)),
            alive: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Opens a stream, at its beginning or where another worker left it, and queues its request.
    ///
    /// # Errors
    /// The worker is gone or about to leave, or the request is too large for it.
    pub fn open(&self, generate: Generate, progress: Progress) -> Result<Stream, OpenError> {
        self.streams.open(&self.outbox, generate, progress)
    }

    /// The worker's last heartbeat; all zero before the first.
    pub fn heartbeat(&self) -> Heartbeat {
        *self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Streams that are live on this worker.
    pub fn live_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether the worker can still be reached, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Whether it takes new streams, as far as is known.
    pub fn takes_streams(&self) -> bool {
        self.is_alive() && self.streams.is_open()
    }

    /// Opens no further streams; those that are live go on.
    pub fn close(&self) {
        self.streams.close(Loss::Left(LEAVING.into()));
    }

    /// Opens no further streams, and ends those that are live: another worker can continue them.
    pub fn release(&self) {
        let loss = Loss::Left(LEAVING.into());
        self.cancel(self.streams.lose_all(loss.clone(), |_| loss.clone()));
    }

    /// Returns when no stream is live.
    pub async fn idle(&self) {
        self.streams.idle().await;
    }

    /// Asks the worker to finish and exit.
    pub fn drain(&self) {
        self.outbox.push(Queued::Drain);
    }

    /// Ends every live stream with one error event, and opens no further ones. No other worker continues them.
    pub fn fail_all(&self, why: &str) {
        self.alive.store(false, Ordering::Relaxed);
        let message = format!("the request was ended: {why}; send it again");
        let failure = Failure { kind: FailureKind::WorkerLost, param: None, message };
        self.cancel(self.streams.fail_all(&failure));
    }

    /// The worker is gone, for the reason `loss`: ends every live stream with it, and opens no further ones. Those whose
    /// request was never sent had no part in it.
    pub fn lose_all(&self, loss: &Loss) {
        self.alive.store(false, Ordering::Relaxed);
        let unsent = self.outbox.requests();
        self.streams.lose_all(loss.clone(), |id| match unsent.contains(&id) {
            true => Loss::Left(loss.reason().into()),
            false => loss.clone(),
        });
    }

    /// Plays the worker: these events came from it.
    #[cfg(test)]
    pub(crate) fn deliver(&self, events: Vec<protocol::message::StreamEvent>) {
        self.streams.deliver(events);
    }

    /// Plays the worker: what was queued for it since it was last asked.
    #[cfg(test)]
    pub(crate) fn take_submissions(&self) -> Vec<protocol::message::Submission> {
        let mut body = Vec::new();
        let batch = super::batcher::encode(self.outbox.take(), &mut body).and_then(|()| codec::decode(&body));
        batch.map(|batch: protocol::message::Batch| batch.submissions).unwrap_or_default()
    }

    /// Orders a worker that may be alive to forget these streams.
    fn cancel(&self, ended: Vec<RequestId>) {
        ended.into_iter().for_each(|id| self.outbox.push(Queued::Cancel(id)));
    }
}

/// Why a worker that is about to leave refuses a stream.
const LEAVING: &str = "the worker is about to leave";

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
            body: Vec::new(),
            unsent: 0,
            shipping: Vec::new(),
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
            if more || self.receiver.arm() == Armed::Ready {
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
                () = self.link.outbox.pushed() => {}
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
                let _span = debug_span!("deliver", events = delivered.len()).entered();
                for id in self.link.streams.deliver(delivered) {
                    warn!(%id, "the worker broke the rules of the stream; the stream was ended");
                    self.link.outbox.push(Queued::Cancel(id));
                }
            }
            Report::Ready(info) => {
                let described = info.name.len() + info.digest.len() + info.architecture.len();
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
                *self.link.heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = heartbeat;
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

    async fn verified(&mut self, mut outcome: Result<Verified, Failure>, events: &EventSender) {
        if std::mem::replace(&mut self.verification_sent, true) {
            return;
        }
        if let Err(failure) = &mut outcome {
            failure.shorten();
        }
        events.send(WorkerEvent::Verified(outcome)).await;
    }
}

/// By the clock of [`sleep_until`], which a test may pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
