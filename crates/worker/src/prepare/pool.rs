//! The threads that prepare.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;
use protocol::{
    ids::RequestId,
    message::{Constraint, Failure, FailureKind, Generate, Operation, Report, StreamEvent, StreamEventKind},
};

use super::{
    PreparedInputs, Preparer,
    group::{HasOperation, bytes_of, into_groups},
    lanes::{Full, Lanes, MAX_QUEUED, MAX_QUEUED_BYTES, Size, Takes},
    operation::Operated,
};
use tracing::debug_span;

use crate::{
    engine::{EmbedJob, EngineMessage, Sequence},
    report_sink::ReportSink,
    request_trace::RequestTrace,
    requests::{RequestHandle, RequestTable},
};

/// The threads, by what they take. At most one long prompt is tokenized at a time, which bounds the memory for it,
/// and long prompts always leave a thread to the short ones.
const THREADS: [Takes; 2] = [Takes::Short, Takes::Any];

/// How long the first answer of a job may wait for the others.
const REPORT_EVERY: Duration = Duration::from_micros(500);

/// What a thread does in one go.
#[derive(Debug)]
enum Job {
    /// To become a sequence of the engine.
    Generate(Box<Generate>, Arc<RequestHandle>),
    /// To be answered, one after the other.
    Operations(Vec<OperationJob>),
}

/// An operation that waits.
#[derive(Debug)]
pub struct OperationJob {
    /// What to do.
    pub operation: Box<Operation>,
    /// Tells whether anyone still waits for it.
    pub request: Arc<RequestHandle>,
}

/// What the threads do: [`Preparer`], or what a test does instead.
trait Prepare: Send + Sync {
    fn prepare(&self, generate: Generate, request: Arc<RequestHandle>) -> Result<Sequence, Failure>;
    fn operate(&self, operation: Operation) -> Result<Operated, Failure>;
}

impl Prepare for Preparer {
    fn prepare(&self, generate: Generate, request: Arc<RequestHandle>) -> Result<Sequence, Failure> {
        Self::prepare(self, generate, request)
    }

    fn operate(&self, operation: Operation) -> Result<Operated, Failure> {
        Self::operate(self, operation)
    }
}

/// A bounded queue and the threads that work on it. Dropping it ends them after what is queued.
#[derive(Debug)]
pub struct Pool {
    queue: Arc<Queue>,
    requests: Arc<RequestTable>,
    engine: Sender<EngineMessage>,
}

/// Tells how long the oldest prompt in preparation has been worked on.
#[derive(Clone, Debug)]
pub struct PreparationAge(Arc<Queue>);

/// What the threads share with those who queue.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lanes: Lanes<Job>,
    /// When each thread began with what it works on.
    began: [Option<Instant>; THREADS.len()],
    closed: bool,
}

/// What the threads need to prepare and to pass on.
struct Context {
    preparer: Box<dyn Prepare>,
    requests: Arc<RequestTable>,
    reports: Arc<dyn ReportSink>,
    engine: Sender<EngineMessage>,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn start(
        preparer: Preparer,
        requests: Arc<RequestTable>,
        reports: Arc<dyn ReportSink>,
        engine: Sender<EngineMessage>,
    ) -> std::io::Result<Self> {
        Self::start_with(Context { preparer: Box::new(preparer), requests, reports, engine })
    }

    fn start_with(context: Context) -> std::io::Result<Self> {
        let pool = Self {
            queue: Arc::default(),
            requests: Arc::clone(&context.requests),
            engine: context.engine.clone(),
        };
        let context = Arc::new(context);
        for (n, takes) in THREADS.into_iter().enumerate() {
            let (queue, context) = (Arc::clone(&pool.queue), Arc::clone(&context));
            thread::Builder::new().name(format!("prepare-{n}")).spawn(move || {
                while let Some(job) = queue.take(n, takes) {
                    context.run(job);
                    queue.lock().began[n] = None;
                }
            })?;
        }
        Ok(pool)
    }

    /// Queues a request for text.
    ///
    /// # Errors
    /// The queue is full; the failure is for the client.
    pub fn submit(&self, generate: Box<Generate>, request: Arc<RequestHandle>) -> Result<(), Failure> {
        let (id, bytes) = (generate.id, generate_bytes(&generate));
        let job = Job::Generate(generate, request);
        self.queue.lock().lanes.push(Some(id), Size { requests: 1, bytes }, job).map_err(overloaded)?;
        // All of them: a thread that only takes short requests must not consume the wake-up for a long one.
        self.queue.changed.notify_all();
        Ok(())
    }

    /// Queues operations; small neighbours of one kind become one job. Returns those for which the queue is full, with
    /// the failure for their clients.
    pub fn submit_operations(&self, operations: Vec<OperationJob>) -> Vec<(RequestId, Failure)> {
        let mut refused = Vec::new();
        let mut state = self.queue.lock();
        for group in into_groups(operations) {
            let ids: Vec<_> = group.iter().map(|job| job.operation.id).collect();
            let bytes = group.iter().map(|job| bytes_of(&job.operation.kind)).sum();
            let alone = match ids[..] {
                [id] => Some(id),
                _ => None,
            };
            let size = Size { requests: ids.len(), bytes };
            if let Err(full) = state.lanes.push(alone, size, Job::Operations(group)) {
                let failure = overloaded(full);
                refused.extend(ids.into_iter().map(|id| (id, failure.clone())));
            }
        }
        drop(state);
        self.queue.changed.notify_all();
        refused
    }

    /// Drops a request that still waits: its client has gone. One that is being prepared runs to its end, and the
    /// engine drops it then; an operation that shares its job with others is left out when its turn comes.
    pub fn cancel(&self, id: RequestId) {
        let removed = self.queue.lock().lanes.remove(id);
        if removed.is_some() {
            self.requests.end(id);
            // If the channel is full, the engine is about to look at everything anyway.
            let _ = self.engine.try_send(EngineMessage::Wake);
        }
    }

    /// Tells how long the oldest prompt in preparation has been worked on.
    pub fn age(&self) -> PreparationAge {
        PreparationAge(Arc::clone(&self.queue))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

impl PreparationAge {
    /// Zero if nothing is in preparation.
    pub fn oldest(&self) -> Duration {
        let began = self.0.lock().began.iter().flatten().min().copied();
        began.map_or(Duration::ZERO, |began| began.elapsed())
    }
}

impl Queue {
    /// Waits for the next request of thread `n`. `None` when the pool has been dropped and nothing is left.
    fn take(&self, n: usize, takes: Takes) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.lanes.take(takes) {
                state.began[n] = Some(Instant::now());
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while holding it, and the state is valid after every single operation.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    fn run(&self, job: Job) {
        match job {
            Job::Generate(generate, request) => self.prepare(*generate, &request),
            Job::Operations(operations) => self.operate(operations),
        }
    }

    fn prepare(&self, generate: Generate, request: &Arc<RequestHandle>) {
        let id = generate.id;
        let _span = RequestTrace::new(&generate).prepare().entered();
        let prepared = catching(|| self.preparer.prepare(generate, Arc::clone(request)));
        match prepared {
            // A cancelled request gets no further event.
            _ if request.is_cancelled() => self.end(&[id], Vec::new()),
            Ok(sequence) => {
                let prompt_tokens = sequence.prompt_len as u32;
                let prepared = StreamEventKind::Prepared { prompt_tokens };
                self.reports.report(&Report::Events(vec![StreamEvent { id, kind: prepared }]));
                let _ = self.engine.send(EngineMessage::Sequence(Box::new(sequence)));
            }
            Err(failure) => {
                self.end(&[id], vec![StreamEvent { id, kind: StreamEventKind::Failed(failure) }]);
            }
        }
    }

    /// Answers operations in as few reports as their clients' patience allows. Each fails alone.
    fn operate(&self, operations: Vec<OperationJob>) {
        let _span = debug_span!("operate", operations = operations.len()).entered();
        let mut ended = Vec::with_capacity(operations.len());
        let mut events = Vec::with_capacity(operations.len());
        let mut began = Instant::now();
        for OperationJob { operation, request } in operations {
            let id = operation.id;
            if request.is_cancelled() {
                ended.push(id);
                continue;
            }
            let kind = match catching(|| self.preparer.operate(*operation)) {
                Ok(Operated::Answered(answer)) => StreamEventKind::Answered(answer),
                Ok(Operated::Prepared(PreparedInputs { inputs, dimensions })) => {
                    let job = EmbedJob { id, request, inputs, dimensions };
                    let _ = self.engine.send(EngineMessage::Embed(Box::new(job)));
                    continue;
                }
                Err(failure) => StreamEventKind::Failed(failure),
            };
            ended.push(id);
            if !request.is_cancelled() {
                events.push(StreamEvent { id, kind });
            }
            if began.elapsed() >= REPORT_EVERY {
                self.end(&ended, std::mem::take(&mut events));
                ended.clear();
                began = Instant::now();
            }
        }
        if !ended.is_empty() {
            self.end(&ended, events);
        }
    }

    /// These requests never reach the engine. `last` is what is said about them.
    fn end(&self, ids: &[RequestId], last: Vec<StreamEvent>) {
        // First: once the table is empty, an engine that drains ends this process.
        if !last.is_empty() {
            self.reports.report(&Report::Events(last));
        }
        if self.requests.end_all(ids) {
            let _ = self.engine.send(EngineMessage::Wake);
        }
    }
}

impl HasOperation for OperationJob {
    fn operation(&self) -> &Operation {
        &self.operation
    }
}

/// A panic in a template or tokenizer fails its request alone.
fn catching<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked()))
}

/// Bytes that a request holds while it waits, and a measure of the work that it is.
fn generate_bytes(generate: &Generate) -> usize {
    let bias = size_of_val(generate.sampling.logit_bias.as_slice());
    let resume = size_of_val(generate.resume.as_slice());
    let stop = generate.stop.iter().map(String::len).sum::<usize>();
    let output = generate.output.as_ref().map_or(0, Constraint::bytes);
    generate.prompt.approximate_bytes() + stop + bias + resume + output
}

fn overloaded(full: Full) -> Failure {
    let message = match full {
        Full::Count => format!("{MAX_QUEUED} requests wait for preparation already; try again later"),
        Full::Bytes => {
            let limit = MAX_QUEUED_BYTES >> 20;
            format!("requests of {limit} MiB wait for preparation already; try again later")
        }
    };
    Failure { kind: FailureKind::Overloaded, param: None, message }
}

fn panicked() -> Failure {
    Failure {
        kind: FailureKind::Internal,
        param: None,
        message: "preparing the prompt panicked; the worker's log has the details".into(),
    }
}

#[cfg(test)]
mod tests;
