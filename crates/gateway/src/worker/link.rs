//! Stage *ship*, and the way back: one task per worker's life owns both rings' gateway ends.
//!
//! ```text
//! Outbox (batcher) ── batch ──► encode ──► request ring ──► worker
//! Streams, supervisor ◄── dispatch ◄── decode ◄── report ring ◄── worker
//! ```
//!
//! The task sleeps when there is nothing to ship and nothing to read, and wakes for a submission, the
//! end of a hold window, or a bell on the socket. The socket's end is the worker's death.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use interprocess::local_socket::tokio::Stream as Socket;
use protocol::{
    codec::{self, CodecError},
    frame::{BELL, FrameError, FrameKind, FrameReceiver, FrameSender, Sent},
    message::{Failure, FailureKind, Generate, Heartbeat, Report, Verified},
    shm::Armed,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep_until,
};
use tracing::{debug_span, warn};

use super::{
    batcher::{self, Next, Queued},
    events::{Event, EventSender},
    outbox::Outbox,
    streams::{Stream, Streams, unsendable},
};
use crate::{
    config::BatchQueue,
    metrics::{LinkMetrics, Metrics},
};

/// One life of a worker, as requests use it. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Link {
    /// The worker's process id, as it said itself.
    pid: u32,
    /// What it last said about its work.
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
    told_alive: Instant,
    /// It has told what a verification found. It tells once, however often it says it.
    verified: bool,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The worker's end of the socket is closed: it is dead, or as good as.
    #[error("its socket closed")]
    Closed,
    /// The socket broke.
    #[error("its socket failed")]
    Socket(#[from] io::Error),
    /// The shared memory or a frame in it is not as it must be.
    #[error("its shared memory can't be used")]
    Frame(#[from] FrameError),
    /// A message could not be decoded.
    #[error("a message from it is broken")]
    Codec(#[from] CodecError),
    /// It described its model at a length that no model has.
    #[error("it described its model in {0} bytes")]
    Description(usize),
    /// It sent what only a gateway may send.
    #[error("it sent a frame of kind {0:?}")]
    Kind(FrameKind),
}

/// Most bytes of a model's name, digest and architecture together.
const MAX_DESCRIPTION: usize = 16 << 10;

/// A larger buffer is given back when it was sent.
const KEPT_BODY: usize = 4 << 20;

/// The supervisor hears of a living worker this often at most, however many frames come.
const TELL_ALIVE_EVERY: Duration = Duration::from_millis(50);

impl Link {
    /// For a worker that has just joined.
    pub fn new(pid: u32, settings: BatchQueue, metrics: Arc<Metrics>) -> Self {
        Self {
            pid,
            heartbeat: Arc::default(),
            outbox: Arc::new(Outbox::new(settings)),
            streams: Arc::new(Streams::new(metrics)),
            alive: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Opens a stream and queues its request; the failure if the worker is gone. `arrived` is when the
    /// client's request came.
    pub fn open(&self, generate: Generate, arrived: Instant) -> Result<Stream, Failure> {
        self.streams.open(&self.outbox, generate, arrived)
    }

    /// The worker's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What the worker last said about its work.
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

    /// Opens no further streams; those that are live go on.
    pub fn close(&self) {
        self.streams
            .close(lost("the worker for this request is about to leave; send the request again".into()));
    }

    /// Returns when no stream is live.
    pub async fn idle(&self) {
        self.streams.idle().await;
    }

    /// Asks the worker to finish and exit.
    pub fn drain(&self) {
        self.outbox.push(Queued::Drain);
    }

    /// Ends every live stream with one error event, and opens no further ones.
    pub fn lose(&self, why: &str) {
        self.alive.store(false, Ordering::Relaxed);
        let message = format!("the worker that ran this request is gone: {why}; send the request again");
        for id in self.streams.lose(lost(message)) {
            self.outbox.push(Queued::Cancel(id));
        }
    }
}

fn lost(message: String) -> Failure {
    Failure { kind: FailureKind::WorkerLost, param: None, message }
}

impl LinkTask {
    /// The task of `link`, over what the handshake made.
    pub fn new(
        link: Link,
        socket: Socket,
        sender: FrameSender,
        receiver: FrameReceiver,
        metrics: LinkMetrics,
    ) -> Self {
        let told_alive = Instant::now();
        Self {
            link,
            socket,
            sender,
            receiver,
            metrics,
            body: Vec::new(),
            unsent: 0,
            told_alive,
            verified: false,
        }
    }

    /// Runs until the worker is gone or can't be trusted any more. What it had published before
    /// is delivered. `reporter` handles messages that are not tied to a stream.
    pub async fn run(mut self, reporter: &EventSender) -> LinkEnd {
        let end = match self.work(reporter).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        if let LinkEnd::Closed | LinkEnd::Socket(_) = end {
            // Its last words. An error in them changes nothing about the end.
            while let Ok(true) = self.receive(reporter).await {}
        }
        end
    }

    async fn work(&mut self, reporter: &EventSender) -> Result<std::convert::Infallible, LinkEnd> {
        let mut bells = [0; 256];
        loop {
            let more = self.receive(reporter).await?;
            let hold = self.ship()?;
            if self.receiver.take_owed_bell() {
                self.ring();
            }
            if more || self.receiver.arm() == Armed::Ready {
                // Others have a right to this thread, too.
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
                read = socket.read(&mut bells) => match read? {
                    0 => return Err(LinkEnd::Closed),
                    count => { self.metrics.bells_received.inc_by(count as u64); }
                },
                () = self.link.outbox.pushed() => {}
                () = held => {}
            }
        }
    }

    /// Dispatches some reports; true if there may be more.
    async fn receive(&mut self, reporter: &EventSender) -> Result<bool, LinkEnd> {
        /// Frames that are read before submissions get their turn.
        const RECEIVE_AT_ONCE: usize = 64;
        for _ in 0..RECEIVE_AT_ONCE {
            let Some(frame) = self.receiver.try_recv()? else { return Ok(false) };
            if frame.kind != FrameKind::Report {
                return Err(LinkEnd::Kind(frame.kind));
            }
            let report = codec::decode::<Report>(frame.body)?;
            self.metrics.deliver_frames.inc();
            self.dispatch(report, reporter).await?;
            if self.receiver.take_owed_bell() {
                self.ring();
            }
        }
        Ok(true)
    }

    async fn dispatch(&mut self, report: Report, reporter: &EventSender) -> Result<(), LinkEnd> {
        let count = &self.metrics.deliver_messages;
        match report {
            Report::Events(events) => {
                count.inc_by(events.len() as u64);
                let _span = debug_span!("deliver", events = events.len()).entered();
                for id in self.link.streams.deliver(events) {
                    warn!(%id, "the worker overspent the stream's credit; the stream was ended");
                    self.link.outbox.push(Queued::Cancel(id));
                }
            }
            Report::Ready(info) => {
                let described = info.name.len() + info.digest.len() + info.architecture.len();
                if described > MAX_DESCRIPTION {
                    return Err(LinkEnd::Description(described));
                }
                reporter.tell(Event::Loaded(info)).await;
            }
            Report::LoadFailed(mut failure) => {
                failure.shorten();
                reporter.tell(Event::LoadFailed(failure)).await;
            }
            Report::Verified(verified) => self.verified(Ok(verified), reporter).await,
            Report::Damaged(failure) => self.verified(Err(failure), reporter).await,
            Report::Heartbeat(heartbeat) => {
                count.inc();
                self.told_alive = Instant::now();
                *self.link.heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = heartbeat;
                reporter.tell(Event::Heartbeat(heartbeat)).await;
                return Ok(());
            }
            Report::Drained => reporter.tell(Event::Drained).await,
        }
        let now = Instant::now();
        if now - self.told_alive >= TELL_ALIVE_EVERY {
            self.told_alive = now;
            reporter.tell(Event::Alive).await;
        }
        Ok(())
    }

    async fn verified(&mut self, mut outcome: Result<Verified, Failure>, reporter: &EventSender) {
        if std::mem::replace(&mut self.verified, true) {
            return;
        }
        if let Err(failure) = &mut outcome {
            failure.shorten();
        }
        reporter.verified(outcome).await;
    }

    /// Sends what is queued, until the queue is empty, held, or the ring full. Returns the end of the hold.
    fn ship(&mut self) -> Result<Option<Instant>, LinkEnd> {
        loop {
            if self.unsent == 0 {
                match self.link.outbox.next(Instant::now()) {
                    Next::Idle => return Ok(None),
                    Next::HoldUntil(until) => return Ok(Some(until)),
                    Next::Ship => {}
                }
                self.unsent = debug_span!("batch").in_scope(|| self.pack());
                if self.unsent == 0 {
                    continue;
                }
            }
            let _span = debug_span!("ship", submissions = self.unsent, bytes = self.body.len()).entered();
            match self.sender.send(FrameKind::Batch, &self.body)? {
                Sent::Done { ring_bell } => {
                    self.metrics.ship_frames.inc();
                    self.metrics.ship_messages.inc_by(self.unsent as u64);
                    self.unsent = 0;
                    self.body.shrink_to(KEPT_BODY);
                    if ring_bell {
                        self.ring();
                    }
                }
                Sent::Full { ring_bell } => {
                    if ring_bell {
                        self.ring();
                    }
                    // The worker rings when there is space again.
                    return Ok(None);
                }
            }
        }
    }

    /// Encodes the next batch, and returns how many submissions are in it. Should it not be possible, its streams end,
    /// and no others.
    fn pack(&mut self) -> usize {
        let taken = self.link.outbox.take();
        let ids: Vec<_> = taken.iter().filter_map(Queued::request).collect();
        let count = taken.len();
        match batcher::encode(taken, &mut self.body) {
            Ok(()) => count,
            Err(error) => {
                let failure = unsendable(error);
                warn!(
                    submissions = count,
                    why = failure.message,
                    "a batch can't be encoded; its requests fail"
                );
                self.link.streams.fail(&ids, &failure);
                0
            }
        }
    }

    /// If the socket's buffer is full, a bell is pending already; if it is closed, reading will tell.
    fn ring(&self) {
        let mut socket = &self.socket;
        if let Some(Ok(1)) = socket.write(&[BELL]).now_or_never() {
            self.metrics.bells_sent.inc();
        }
    }
}
