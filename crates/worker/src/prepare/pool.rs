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
    message::{Answer, Failure, FailureKind, Generate, Operation, Report, StreamEvent, StreamEventKind},
};

use super::{
    Preparer,
    lanes::{Full, Lanes, MAX_QUEUED, MAX_QUEUED_BYTES, Takes},
    work::Work,
};
use crate::{
    engine::{EngineMessage, Sequence},
    report_sink::ReportSink,
    requests::{RequestHandle, RequestTable},
};

/// The threads, by what they take. At most one long prompt is tokenized at a time, which bounds the memory for it,
/// and long prompts always leave a thread to the short ones.
const THREADS: [Takes; 2] = [Takes::Short, Takes::Any];

type Job = (Work, Arc<RequestHandle>);

/// What the threads do: [`Preparer`], or what a test does instead.
trait Prepare: Send + Sync {
    fn prepare(&self, generate: Generate, request: Arc<RequestHandle>) -> Result<Sequence, Failure>;
    fn operate(&self, operation: Operation) -> Result<Answer, Failure>;
}

impl Prepare for Preparer {
    fn prepare(&self, generate: Generate, request: Arc<RequestHandle>) -> Result<Sequence, Failure> {
        Self::prepare(self, generate, request)
    }

    fn operate(&self, operation: Operation) -> Result<Answer, Failure> {
        Self::operate(self, operation)
    }
}

/// What has become of a request.
enum Done {
    /// A generation that the engine goes on with.
    Prepared(Box<Sequence>),
    /// An operation.
    Answered(Answer),
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
                while let Some((work, request)) = queue.take(n, takes) {
                    context.run(work, &request);
                    queue.lock().began[n] = None;
                }
            })?;
        }
        Ok(pool)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// The queue is full; the failure is for the client.
    pub fn submit(&self, work: Work, request: Arc<RequestHandle>) -> Result<(), Failure> {
        let (id, bytes) = (work.id(), work.bytes());
        self.queue.lock().lanes.push(id, bytes, (work, request)).map_err(overloaded)?;
        // All of them: a thread that only takes short requests must not consume the wake-up for a long one.
        self.queue.changed.notify_all();
        Ok(())
    }

    /// Drops a request that still waits: its client has gone. One that is being prepared runs to its end, and the
    /// engine drops it then.
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
    fn run(&self, work: Work, request: &Arc<RequestHandle>) {
        let id = work.id();
        let _span = work.span().entered();
        // A panic in a template or tokenizer fails this request alone.
        let done = catch_unwind(AssertUnwindSafe(|| self.work(work, request)));
        let done = done.unwrap_or_else(|_| Err(panicked()));
        if request.is_cancelled() {
            // A cancelled request gets no further event.
            return self.end(id, None);
        }
        match done {
            Ok(Done::Prepared(sequence)) => {
                let prompt_tokens = sequence.prompt_len as u32;
                self.report(StreamEvent { id, kind: StreamEventKind::Prepared { prompt_tokens } });
                let _ = self.engine.send(EngineMessage::Sequence(sequence));
            }
            Ok(Done::Answered(answer)) => self.end(id, Some(StreamEventKind::Answered(answer))),
            Err(failure) => self.end(id, Some(StreamEventKind::Failed(failure))),
        }
    }

    fn work(&self, work: Work, request: &Arc<RequestHandle>) -> Result<Done, Failure> {
        match work {
            Work::Generate(generate) => self
                .preparer
                .prepare(*generate, Arc::clone(request))
                .map(|sequence| Done::Prepared(Box::new(sequence))),
            Work::Operation(operation) => self.preparer.operate(*operation).map(Done::Answered),
        }
    }

    /// The request never reaches the engine.
    fn end(&self, id: RequestId, last: Option<StreamEventKind>) {
        self.requests.end(id);
        if let Some(kind) = last {
            self.report(StreamEvent { id, kind });
        }
        // An engine that drains waits for the last request.
        let _ = self.engine.send(EngineMessage::Wake);
    }

    fn report(&self, event: StreamEvent) {
        self.reports.report(&Report::Events(vec![event]));
    }
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
