//! Stage *deliver*: events of one worker process to the streams that wait for them.
//!
//! A [`Stream`] is the client's end, a table entry the worker's. Between them is a `Mailbox`, which can't grow without
//! bound: chunks are bounded by the credit given, and a stream has one `Prepared` and one end. So delivering never waits
//! for a reader; a reader that reads nothing gives no credit back, and pauses its own generation in the worker.
//!
//! A stream ends with a terminal event of the worker, or with the [`Loss`] of its worker. What a lost worker had
//! published is delivered before that, so that another one can continue where it ended.

mod entry;
mod opening;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use protocol::{
    codec::CodecError,
    ids::RequestId,
    message::{Delta, Failure, FailureKind, Generate, StreamEvent, StreamEventKind, TokenLogprobs},
};
use tokio::sync::Notify;
use tracing::warn;

use self::entry::{Entry, Stage};
pub use self::opening::{OpenError, Progress};
use super::{
    batcher::Queued, load::Load, loss::Loss, mailbox::Mailbox, metrics::StreamMetrics, outbox::Outbox,
};
use crate::trace::RequestSpan;

/// What a stream yields.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamItem {
    /// The worker sent an event.
    Event(StreamEventKind),
    /// The worker will send nothing more. Nothing follows.
    Lost(Loss),
}

/// The live streams of one worker process.
#[derive(Debug)]
pub struct Streams {
    table: Mutex<Table>,
    /// Notified when a stream ended.
    ended: Notify,
    /// The work before the worker: the sum of what its streams have left.
    pub(super) load: Arc<Load>,
    /// To the worker.
    outbox: Arc<Outbox>,
    metrics: StreamMetrics,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<RequestId, Entry>,
    /// Set once, when the worker takes nothing new or is gone: nothing can be opened any more.
    refusal: Option<Loss>,
    /// Readers to be woken when a step was delivered whole; empty in between.
    readers: Vec<Waker>,
}

/// What both ends of a stream count.
#[derive(Debug)]
struct Flow {
    /// Chunks that the worker may have sent in all; the client's end raises it.
    granted: AtomicU64,
    /// Bytes of chunks that the client's end has not yielded.
    unread: AtomicUsize,
    /// Prompt tokens that the worker had in its cache.
    cached_tokens: AtomicU32,
}

/// The client's end of a stream: yields its events and ends after the terminal one or a loss. Dropping it earlier cancels
/// the generation.
#[derive(Debug)]
pub struct Stream {
    id: RequestId,
    mailbox: Arc<Mailbox<StreamItem>>,
    ended: bool,
    flow: Arc<Flow>,
    /// Chunks yielded for which no credit was given back yet.
    unreturned: u32,
    /// Credit is given back for this many chunks at once.
    credit_batch: u32,
    streams: Arc<Streams>,
}

impl Streams {
    /// No streams, for a new process, which is told about them through `outbox`.
    pub fn new(outbox: Arc<Outbox>, metrics: StreamMetrics) -> Self {
        Self { table: Mutex::default(), ended: Notify::new(), load: Arc::default(), outbox, metrics }
    }

    /// Opens the stream of `generate` and queues it for the worker.
    ///
    /// # Errors
    /// The worker takes nothing any more, or the request is too large for it.
    pub fn open(self: &Arc<Self>, generate: Generate, progress: Progress) -> Result<Stream, OpenError> {
        let (id, credit, next_token) = (generate.id, generate.credit, generate.resume.len() as u32);
        let share = self.load.share(&generate);
        let queued = Queued::generate(generate).map_err(|error| OpenError::Unsendable(unsendable(error)))?;
        let mailbox = Arc::new(Mailbox::new());
        let granted = AtomicU64::new(credit.into());
        let flow = Arc::new(Flow { granted, unread: AtomicUsize::new(0), cached_tokens: AtomicU32::new(0) });
        let entry = Entry {
            mailbox: Arc::clone(&mailbox),
            flow: Arc::clone(&flow),
            share,
            spent: 0,
            next_token,
            progress,
            stage: Stage::Sent,
            request: RequestSpan::current(),
            delivering: None,
        };
        let mut table = self.table();
        if let Some(loss) = &table.refusal {
            return Err(OpenError::Lost(loss.clone()));
        }
        table.open.insert(id, entry);
        // Before anything can end the stream: a cancel must not be sent before its request.
        self.outbox.push(queued);
        drop(table);
        let credit_batch = (credit / 4).max(1);
        let streams = Arc::clone(self);
        Ok(Stream { id, mailbox, ended: false, flow, unreturned: 0, credit_batch, streams })
    }

    /// Live streams.
    pub fn len(&self) -> usize {
        self.table().open.len()
    }

    /// Whether no stream is live.
    pub fn is_empty(&self) -> bool {
        self.table().open.is_empty()
    }

    /// Delivers the events of one step, and wakes their readers then. Events of unknown streams (their client has gone)
    /// are dropped. A stream whose worker breaks its rules ends with a failure that says so, and is cancelled.
    pub fn deliver(&self, events: impl IntoIterator<Item = StreamEvent>) {
        let now = Instant::now();
        let (mut ended, mut broken) = (false, Vec::new());
        let mut table = self.table();
        let Table { open, readers, .. } = &mut *table;
        for StreamEvent { id, mut kind } in events {
            let Some(entry) = open.get_mut(&id) else { continue };
            if let Err(violation) = entry.accept(&mut kind, now, &self.metrics) {
                kind = violated(violation);
                broken.push(id);
            }
            // Nothing that a client would see.
            if let StreamEventKind::Started { .. } = kind {
                continue;
            }
            let is_terminal = kind.is_terminal();
            let put = entry.mailbox.put(StreamItem::Event(kind));
            readers.extend(put.reader);
            self.metrics.queues.count(put.reused);
            if is_terminal {
                open.remove(&id);
                ended = true;
            }
        }
        readers.drain(..).for_each(Waker::wake);
        drop(table);
        for id in broken {
            warn!(%id, "the worker broke the rules of the stream; the stream was ended");
            self.cancel(id);
        }
        if ended {
            self.ended.notify_waiters();
        }
    }

    /// Ends these streams alone: what was queued for them could not be sent, so the worker knows nothing of them.
    pub fn fail(&self, ids: &[RequestId], failure: &Failure) {
        let mut table = self.table();
        for id in ids {
            if let Some(entry) = table.open.remove(id) {
                entry.end(StreamItem::Event(StreamEventKind::Failed(failure.clone())));
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
        let event = StreamItem::Event(StreamEventKind::Failed(failure.clone()));
        self.end_all(self.table(), Loss::Left(failure.message.clone()), |_, _| event.clone())
    }

    /// Ends every stream with the loss of its worker, and opens no further ones. Those whose request was never sent, or was
    /// waiting for its first step, had no part in it. Returns the streams that it ended, as [`Streams::fail_all`] does.
    pub fn lose_all(&self, loss: &Loss) -> Vec<RequestId> {
        let table = self.table();
        // Under the lock: a stream that is opened at the same time is among the unsent ones, or finds the table closed.
        let unsent = self.outbox.requests();
        self.end_all(table, loss.clone(), |id, entry| {
            StreamItem::Lost(match entry.takes_part() && !unsent.contains(&id) {
                true => loss.clone(),
                false => Loss::Left(loss.reason().into()),
            })
        })
    }

    fn end_all(
        &self,
        mut table: MutexGuard<'_, Table>,
        reason: Loss,
        end: impl Fn(RequestId, &Entry) -> StreamItem,
    ) -> Vec<RequestId> {
        table.refusal.get_or_insert(reason);
        let mut ended = Vec::with_capacity(table.open.len());
        for (id, entry) in table.open.drain() {
            let item = end(id, &entry);
            entry.end(item);
            ended.push(id);
        }
        drop(table);
        self.ended.notify_waiters();
        ended
    }

    /// Orders the worker to stop a generation of which it may not have sent the end.
    pub fn cancel(&self, id: RequestId) {
        self.outbox.push(Queued::Cancel(id));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// The next item; `None` after the end.
    pub async fn next(&mut self) -> Option<StreamItem> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Stream::next`] for a body that is polled.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamItem>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = ready!(self.mailbox.poll_take(cx)).unwrap_or_else(|| {
            // The table never drops an entry without an end. Should it, this is one.
            StreamItem::Lost(Loss::Left("the stream was lost inside the gateway".into()))
        });
        match &item {
            StreamItem::Event(StreamEventKind::Delta(chunk)) => self.give_credit_back(chunk),
            StreamItem::Event(event) => self.ended = event.is_terminal(),
            StreamItem::Lost(_) => self.ended = true,
        }
        Poll::Ready(Some(item))
    }

    /// Prompt tokens that the worker had in its cache; 0 until it has started.
    pub fn cached_tokens(&self) -> u32 {
        self.flow.cached_tokens.load(Ordering::Relaxed)
    }

    /// A chunk was taken: as many may be sent in addition, which is said for several at once.
    fn give_credit_back(&mut self, chunk: &Delta) {
        self.flow.unread.fetch_sub(size(chunk), Ordering::Relaxed);
        self.unreturned += 1;
        // The worker of a stream that has ended needs none.
        if self.unreturned >= self.credit_batch && !self.mailbox.is_closed() {
            let chunks = std::mem::take(&mut self.unreturned);
            // First raise what the table allows, then inform the worker.
            self.flow.granted.fetch_add(chunks.into(), Ordering::Release);
            self.streams.outbox.push(Queued::Credit { id: self.id, chunks });
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
            self.streams.cancel(self.id);
            self.streams.ended.notify_waiters();
        }
    }
}

fn size(chunk: &Delta) -> usize {
    let logprobs: usize = chunk.logprobs.iter().map(TokenLogprobs::approximate_bytes).sum();
    chunk.text.len() + size_of_val(&*chunk.tokens) + logprobs
}

fn violated(violation: &str) -> StreamEventKind {
    let failure = Failure { kind: FailureKind::Internal, param: None, message: violation.into() };
    StreamEventKind::Failed(failure)
}

/// For a request that can't be encoded. The worker never receives it.
pub(crate) fn unsendable(error: CodecError) -> Failure {
    let message =
        format!("the request can't be sent to a worker: {:#}; shorten it", anyhow::Error::new(error));
    Failure { kind: FailureKind::InvalidRequest, param: None, message }
}

#[cfg(test)]
mod tests;
