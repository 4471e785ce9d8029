//! Stage *deliver*: events of one worker process to the streams that wait for them.
//!
//! A [`Stream`] is the client's end, a table entry the worker's. Between them is a channel that can't
//! fill up: an item holds at least one event, chunks are bounded by the credit given, and a stream
//! has one `Prepared` and one terminal event. So delivering never waits for a reader; a reader that
//! reads nothing gives no credit back, and pauses its own generation in the worker.

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

use super::{batcher::Queued, metrics::StreamMetrics, outbox::Outbox};
use crate::trace::{RequestSpan, StageSpan};

/// What one step brought for one stream.
type Delivery = Vec<StreamEventKind>;

/// The live streams of one worker process.
#[derive(Debug)]
pub struct Streams {
    table: Mutex<Table>,
    /// Notified when a stream ended.
    ended: Notify,
    metrics: StreamMetrics,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<RequestId, Entry>,
    /// Set once, when the worker takes nothing new or is gone: nothing can be opened any more.
    refusal: Option<Failure>,
}

/// The worker's end of a stream.
#[derive(Debug)]
struct Entry {
    sender: mpsc::Sender<Delivery>,
    /// Events of the step that is being delivered.
    step: Delivery,
    flow: Arc<Flow>,
    /// Deltas that the worker has sent.
    spent: u64,
    /// Position in the output of the next token.
    next_token: u32,
    /// When the request arrived.
    arrived: Instant,
    /// When the last tokens came.
    last_tokens: Option<Instant>,
    request: RequestSpan,
    /// In its trace, once something has come.
    delivering: Option<StageSpan>,
}

/// What both ends of a stream count.
#[derive(Debug)]
struct Flow {
    /// Chunks that the worker may have sent in all; the client's end raises it.
    granted: AtomicU64,
    /// Bytes of chunks that the client's end has not yielded.
    unread: AtomicUsize,
}

/// The client's end of a stream: yields its events and ends after the terminal one. Dropping it
/// earlier cancels the generation.
#[derive(Debug)]
pub struct Stream {
    id: RequestId,
    receiver: mpsc::Receiver<Delivery>,
    /// Received, not yet yielded.
    ready: VecDeque<StreamEventKind>,
    ended: bool,
    flow: Arc<Flow>,
    /// Chunks yielded for which no credit was given back yet.
    unreturned: u32,
    /// Credit is given back for this many chunks at once.
    credit_batch: u32,
    streams: Arc<Streams>,
    outbox: Arc<Outbox>,
}

/// Most bytes of chunks that wait for one reader. The credit bounds their number, and honest chunks are small; a text
/// that was held back because a stop string might begin in it comes at once, and fits.
const MAX_UNREAD: usize = 4 << 20;

impl Streams {
    /// No streams, for a new process.
    pub fn new(metrics: StreamMetrics) -> Self {
        Self { table: Mutex::default(), ended: Notify::new(), metrics }
    }

    /// Opens the stream of `generate` and queues it for the worker.
    ///
    /// # Errors
    /// The worker takes nothing any more, or the request is too large for it.
    pub fn open(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        generate: Generate,
        arrived: Instant,
    ) -> Result<Stream, Failure> {
        let (id, credit, next_token) = (generate.id, generate.credit, generate.resume.len() as u32);
        let queued = Queued::generate(generate).map_err(unsendable)?;
        // One item per chunk at most, and two for `Prepared` and the terminal event.
        let (sender, receiver) = mpsc::channel(credit as usize + 2);
        let flow = Arc::new(Flow { granted: AtomicU64::new(credit.into()), unread: AtomicUsize::new(0) });
        let credit_batch = (credit / 4).max(1);
        let mut table = self.table();
        if let Some(failure) = &table.refusal {
            return Err(failure.clone());
        }
        let entry = Entry {
            sender,
            step: Vec::new(),
            flow: Arc::clone(&flow),
            spent: 0,
            next_token,
            arrived,
            last_tokens: None,
            request: RequestSpan::current(),
            delivering: None,
        };
        table.open.insert(id, entry);
        drop(table);
        outbox.push(queued);
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
                // As in `fail_all`.
                let _ = entry.sender.try_send(vec![StreamEventKind::Failed(failure.clone())]);
            }
        }
        drop(table);
        self.ended.notify_waiters();
    }

    /// Refuses new streams with `failure`; those that are live go on. The first refusal stays.
    pub fn close(&self, failure: Failure) {
        self.table().refusal.get_or_insert(failure);
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

    /// Ends every stream with `failure`, and refuses new ones with it if nothing did before. Returns the streams
    /// that it ended: a worker that is alive must be ordered to cancel them.
    pub fn fail_all(&self, failure: Failure) -> Vec<RequestId> {
        let mut table = self.table();
        table.refusal.get_or_insert_with(|| failure.clone());
        let mut ended = Vec::with_capacity(table.open.len());
        for (id, entry) in table.open.drain() {
            // It fails if the client has gone, or if the channel is full, which the sum at its creation
            // rules out.
            let _ = entry.sender.try_send(vec![StreamEventKind::Failed(failure.clone())]);
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
        if entry.sender.try_send(step).is_err() || ended {
            self.open.remove(&id);
        }
    }
}

impl Entry {
    /// Adds an event to the step's. False if the worker must not send it; the stream then ends with a failure that
    /// says so.
    fn accept(&mut self, mut event: StreamEventKind, now: Instant, metrics: &StreamMetrics) -> bool {
        if self.step.last().is_some_and(StreamEventKind::is_terminal) {
            return true; // Nothing may follow, and the stream has its end: drop it.
        }
        let request = &mut self.request;
        self.delivering.get_or_insert_with(|| std::mem::take(request).deliver());
        match &mut event {
            StreamEventKind::Prepared { prompt_tokens } => {
                metrics.tokens_in.inc_by((*prompt_tokens).into());
            }
            StreamEventKind::Delta(delta) => {
                if let Err(violation) = self.check(delta) {
                    return self.violated(violation);
                }
                self.measure(delta.tokens.len(), now, metrics);
            }
            StreamEventKind::Failed(failure) => failure.shorten(),
            StreamEventKind::Answered(_) => {
                return self.violated("the worker answered a request for text with a value");
            }
            StreamEventKind::Finished { .. } => {}
        }
        self.step.push(event);
        true
    }

    fn violated(&mut self, violation: &str) -> bool {
        self.step.push(StreamEventKind::Failed(Failure {
            kind: FailureKind::Internal,
            param: None,
            message: violation.into(),
        }));
        false
    }

    /// Counts a delta, and says why the worker must not send it.
    fn check(&mut self, delta: &Delta) -> Result<(), &'static str> {
        self.spent += 1;
        let bytes = size(delta);
        let unread = self.flow.unread.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.spent > self.flow.granted.load(Ordering::Acquire) || unread > MAX_UNREAD {
            return Err("the worker sent more than the client had asked for");
        }
        let tokens = delta.token_range();
        if tokens.start != self.next_token {
            return Err("the worker left out a part of the output");
        }
        self.next_token = tokens.end;
        Ok(())
    }

    fn measure(&mut self, tokens: usize, now: Instant, metrics: &StreamMetrics) {
        if tokens == 0 {
            return;
        }
        metrics.tokens_out.inc_by(tokens as u64);
        match self.last_tokens.replace(now) {
            None => metrics.time_to_first_token.observe((now - self.arrived).as_secs_f64()),
            // Several tokens in one chunk came one by one in the worker: each gets its share.
            Some(last) => {
                let each = (now - last).as_secs_f64() / tokens as f64;
                (0..tokens).for_each(|_| metrics.inter_token_latency.observe(each));
            }
        }
    }
}

impl Stream {
    /// The next event; `None` after the terminal one.
    pub async fn next(&mut self) -> Option<StreamEventKind> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Stream::next`] for a body that is polled.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamEventKind>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(self.yield_event(event)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match self.receiver.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(delivery)) => self.ready.extend(delivery),
                // The table never drops a sender without a terminal event. Should it, this is one.
                Poll::Ready(None) => {
                    self.ready.push_back(StreamEventKind::Failed(Failure {
                        kind: FailureKind::WorkerLost,
                        param: None,
                        message: "the stream was lost inside the gateway".into(),
                    }));
                }
            }
        }
    }

    fn yield_event(&mut self, event: StreamEventKind) -> StreamEventKind {
        if event.is_terminal() {
            self.ended = true;
        } else if let StreamEventKind::Delta(chunk) = &event {
            self.flow.unread.fetch_sub(size(chunk), Ordering::Relaxed);
            self.unreturned += 1;
            if self.unreturned >= self.credit_batch {
                let chunks = std::mem::take(&mut self.unreturned);
                // First raise what the table allows, then inform the worker.
                self.flow.granted.fetch_add(chunks.into(), Ordering::Release);
                self.outbox.push(Queued::Credit { id: self.id, chunks });
            }
        }
        event
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
