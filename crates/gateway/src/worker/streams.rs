//! Stage *deliver*: events of one worker process to the streams that wait for them.
//!
//! A [`Stream`] is the client's end, a table entry the worker's. Between them is a channel that can't
//! fill up: an item holds at least one event, chunks are bounded by the credit given, and a stream
//! has one `Prepared` and one end. So delivering never waits for a reader; a reader that
//! reads nothing gives no credit back, and pauses its own generation in the worker.
//!
//! A stream ends with a terminal event of the worker, or with the [`Loss`] of its worker. What a lost worker had
//! published is delivered before that, so that another one can continue where it ended.

mod entry;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use protocol::{
    codec::CodecError,
    ids::RequestId,
    message::{Delta, Failure, FailureKind, Generate, StreamEvent, StreamEventKind},
};
use tokio::sync::{Notify, mpsc};

use self::entry::Entry;
use super::{batcher::Queued, load::Load, loss::Loss, metrics::StreamMetrics, outbox::Outbox};
use crate::trace::RequestSpan;

/// What a stream yields.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamItem {
    /// The worker sent an event.
    Event(StreamEventKind),
    /// The worker will send nothing more. Nothing follows.
    Lost(Loss),
}

/// What the table gives to a stream's client at once.
#[derive(Debug)]
enum Delivery {
    /// What one step brought.
    Step(Vec<StreamEventKind>),
    /// The end, if no terminal event was it.
    Lost(Loss),
}

/// Where a stream stands that is opened: at its beginning, or where another worker left it.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// When the client's request arrived.
    pub arrived: Instant,
    /// A worker has accepted the prompt before.
    pub prepared: bool,
    /// When the last tokens came.
    pub last_tokens: Option<Instant>,
}

impl Progress {
    /// At its beginning.
    pub fn new(arrived: Instant) -> Self {
        Self { arrived, prepared: false, last_tokens: None }
    }
}

/// Why a stream was not opened.
#[derive(Clone, Debug, PartialEq)]
pub enum OpenError {
    /// The worker takes nothing any more; another one may.
    Lost(Loss),
    /// The request can't be sent to any worker.
    Unsendable(Failure),
}

/// The live streams of one worker process.
#[derive(Debug)]
pub struct Streams {
    table: Mutex<Table>,
    /// Notified when a stream ended.
    ended: Notify,
    /// The work before the worker: the sum of what its streams have left.
    pub(super) load: Arc<Load>,
    metrics: StreamMetrics,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<RequestId, Entry>,
    /// Set once, when the worker takes nothing new or is gone: nothing can be opened any more.
    refusal: Option<Loss>,
}

/// What both ends of a stream count.
#[derive(Debug)]
struct Flow {
    /// Chunks that the worker may have sent in all; the client's end raises it.
    granted: AtomicU64,
    /// Bytes of chunks that the client's end has not yielded.
    unread: AtomicUsize,
}

/// The client's end of a stream: yields its events and ends after the terminal one or a loss. Dropping it
/// earlier cancels the generation.
#[derive(Debug)]
pub struct Stream {
    id: RequestId,
    receiver: mpsc::Receiver<Delivery>,
    /// Received, not yet yielded.
    ready: VecDeque<StreamItem>,
    ended: bool,
    flow: Arc<Flow>,
    /// Chunks yielded for which no credit was given back yet.
    unreturned: u32,
    /// Credit is given back for this many chunks at once.
    credit_batch: u32,
    streams: Arc<Streams>,
    outbox: Arc<Outbox>,
}

impl Streams {
    /// No streams, for a new process.
    pub fn new(metrics: StreamMetrics) -> Self {
        Self { table: Mutex::default(), ended: Notify::new(), load: Arc::default(), metrics }
    }

    /// Opens the stream of `generate` and queues it for the worker.
    ///
    /// # Errors
    /// The worker takes nothing any more, or the request is too large for it.
    pub fn open(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        generate: Generate,
        progress: Progress,
    ) -> Result<Stream, OpenError> {
        let (id, credit, next_token) = (generate.id, generate.credit, generate.resume.len() as u32);
        let share = self.load.share(&generate);
        let queued = Queued::generate(generate).map_err(|error| OpenError::Unsendable(unsendable(error)))?;
        // One item per chunk at most, and two for `Prepared` and the end.
        let (sender, receiver) = mpsc::channel(credit as usize + 2);
        let flow = Arc::new(Flow { granted: AtomicU64::new(credit.into()), unread: AtomicUsize::new(0) });
        let credit_batch = (credit / 4).max(1);
        let mut table = self.table();
        if let Some(loss) = &table.refusal {
            return Err(OpenError::Lost(loss.clone()));
        }
        let entry = Entry {
            sender,
            step: Vec::new(),
            flow: Arc::clone(&flow),
            share,
            spent: 0,
            next_token,
            progress,
            request: RequestSpan::current(),
            delivering: None,
        };
        table.open.insert(id, entry);
        // Under the lock: whoever ends the stream must not queue its cancel before its request.
        outbox.push(queued);
        drop(table);
        Ok(Stream {
            id,
            receiver,
            ready: VecDeque::new(),
            ended: false,
            flow,
            unreturned: 0,
            credit_batch,
            streams: Arc::clone(self),
            outbox: Arc::clone(outbox),
        })
    }

    /// Live streams.
    pub fn len(&self) -> usize {
        self.table().open.len()
    }

    /// Whether no stream is live.
    pub fn is_empty(&self) -> bool {
        self.table().open.is_empty()
    }

    /// Delivers the events of one step, each stream's together. Events of unknown streams (their
    /// client has gone) are dropped. Returns streams that were ended because the worker broke
    /// their rules: which it must be ordered to cancel.
    pub fn deliver(&self, events: Vec<StreamEvent>) -> Vec<RequestId> {
        let now = Instant::now();
        let mut touched = Vec::with_capacity(events.len());
        let mut broken = Vec::new();
        let mut table = self.table();
        for event in events {
            let Some(entry) = table.open.get_mut(&event.id) else { continue };
            if entry.step.is_empty() {
                touched.push(event.id);
            }
            if !entry.accept(event.kind, now, &self.metrics) {
                broken.push(event.id);
            }
        }
        for id in touched {
            table.flush(id);
        }
        drop(table);
        self.ended.notify_waiters();
        broken
    }

    /// Ends these streams alone: what was queued for them could not be sent.
    pub fn fail(&self, ids: &[RequestId], failure: &Failure) {
        let mut table = self.table();
        for id in ids {
            if let Some(entry) = table.open.remove(id) {
                entry.end(Delivery::Step(vec![StreamEventKind::Failed(failure.clone())]));
            }
        }
        drop(table);
        self.ended.notify_waiters();
    }

    /// Opens no further streams; those that are live go on. The first reason stays.
    pub fn close(&self, reason: Loss) {
        self.table().refusal.get_or_insert(reason);
    }

    /// Whether streams can be opened.
    pub fn is_open(&self) -> bool {
        self.table().refusal.is_none()
    }

    /// Returns when no stream is live. Only after [`Streams::close`] it stays so.
    pub async fn idle(&self) {
        loop {
            // Asked for before the look, so that an end between the two is not missed.
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Ends every stream with `failure`, and opens no further ones. Returns the streams that it ended: a worker that is
    /// alive must be ordered to cancel them.
    pub fn fail_all(&self, failure: &Failure) -> Vec<RequestId> {
        let reason = Loss::Left(failure.message.clone());
        self.end_all(reason, |_| Delivery::Step(vec![StreamEventKind::Failed(failure.clone())]))
    }

    /// Ends every stream with the loss of its worker, which `loss` tells of each, and opens no further ones. Returns the
    /// streams that it ended, as [`Streams::fail_all`] does.
    pub fn lose_all(&self, reason: Loss, loss: impl Fn(RequestId) -> Loss) -> Vec<RequestId> {
        self.end_all(reason, |id| Delivery::Lost(loss(id)))
    }

    fn end_all(&self, reason: Loss, end: impl Fn(RequestId) -> Delivery) -> Vec<RequestId> {
        let mut table = self.table();
        table.refusal.get_or_insert(reason);
        let mut ended = Vec::with_capacity(table.open.len());
        for (id, entry) in table.open.drain() {
            entry.end(end(id));
            ended.push(id);
        }
        drop(table);
        self.ended.notify_waiters();
        ended
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Sends what a step brought for `id`, and forgets the stream if that ended it.
    fn flush(&mut self, id: RequestId) {
        let Some(entry) = self.open.get_mut(&id) else { return };
        let step = std::mem::take(&mut entry.step);
        let ended = step.last().is_some_and(StreamEventKind::is_terminal);
        if entry.sender.try_send(Delivery::Step(step)).is_err() || ended {
            self.open.remove(&id);
        }
    }
}

impl Stream {
    /// The next item; `None` after the end.
    pub async fn next(&mut self) -> Option<StreamItem> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Stream::next`] for a body that is polled.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamItem>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Poll::Ready(Some(self.yield_item(item)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match self.receiver.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Delivery::Step(step))) => {
                    self.ready.extend(step.into_iter().map(StreamItem::Event));
                }
                Poll::Ready(Some(Delivery::Lost(loss))) => self.ready.push_back(StreamItem::Lost(loss)),
                // The table never drops a sender without an end. Should it, this is one.
                Poll::Ready(None) => {
                    let loss = Loss::Left("the stream was lost inside the gateway".into());
                    self.ready.push_back(StreamItem::Lost(loss));
                }
            }
        }
    }

    fn yield_item(&mut self, item: StreamItem) -> StreamItem {
        match &item {
            StreamItem::Lost(_) => self.ended = true,
            StreamItem::Event(event) if event.is_terminal() => self.ended = true,
            StreamItem::Event(StreamEventKind::Delta(chunk)) => self.read(chunk),
            StreamItem::Event(_) => {}
        }
        item
    }

    /// Gives credit back for a chunk that was read, with others.
    fn read(&mut self, chunk: &Delta) {
        self.flow.unread.fetch_sub(size(chunk), Ordering::Relaxed);
        self.unreturned += 1;
        if self.unreturned >= self.credit_batch {
            let chunks = std::mem::take(&mut self.unreturned);
            // First raise what the table allows, then inform the worker.
            self.flow.granted.fetch_add(chunks.into(), Ordering::Release);
            self.outbox.push(Queued::Credit { id: self.id, chunks });
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let live = self.streams.table().open.remove(&self.id).is_some();
        // If it is not live, its terminal event came and was not read: the worker is done with it.
        if live {
            self.outbox.push(Queued::Cancel(self.id));
            self.streams.ended.notify_waiters();
        }
    }
}

fn size(chunk: &Delta) -> usize {
    chunk.text.len() + size_of_val(&*chunk.tokens)
}

/// For a request that can't be encoded. The worker never receives it.
pub(crate) fn unsendable(error: CodecError) -> Failure {
    let message =
        format!("the request can't be sent to a worker: {:#}; shorten it", anyhow::Error::new(error));
    Failure { kind: FailureKind::InvalidRequest, param: None, message }
}

#[cfg(test)]
mod tests;
