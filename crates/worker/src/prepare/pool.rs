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
    message::{Failure, FailureKind, Generate, Prompt, Report, StreamEvent, StreamEventKind},
};

use super::{
    Preparer,
    lanes::{Full, Lanes, MAX_QUEUED, MAX_QUEUED_BYTES, Takes},
};
use tracing::debug_span;

use crate::{
    engine::{EngineMessage, Sequence},
    report_sink::ReportSink,
    requests::{RequestHandle, RequestTable},
};

/// The threads, by what they take. At most one long prompt is tokenized at a time, which bounds the memory for it,
/// and long prompts always leave a thread to the short ones.
const THREADS: [Takes; 2] = [Takes::Short, Takes::Any];

/// Overhead of a chat message in addition to its text: a list of many tiny ones is long as well.
const MESSAGE_BYTES: usize = 64;

/// [`Preparer::prepare`], or what a test does instead.
type Prepare = dyn Fn(Generate, Arc<RequestHandle>) -> Result<Sequence, Failure> + Send + Sync;

type Job = (Box<Generate>, Arc<RequestHandle>);

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
    prepare: Box<Prepare>,
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
        let prepare = move |generate, request| preparer.prepare(generate, &[], request);
        Self::start_with(Context { prepare: Box::new(prepare), requests, reports, engine })
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
                while let Some((generate, request)) = queue.take(n, takes) {
                    context.run(generate, request);
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
    pub fn submit(&self, generate: Box<Generate>, request: Arc<RequestHandle>) -> Result<(), Failure> {
        let (id, bytes) = (generate.id, size(&generate));
        self.queue.lock().lanes.push(id, bytes, (generate, request)).map_err(overloaded)?;
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
    fn run(&self, generate: Box<Generate>, request: Arc<RequestHandle>) {
        let id = generate.id;
        let _span = debug_span!("prepare", %id).entered();
        // A panic in a template or tokenizer fails this request alone.
        let prepared = catch_unwind(AssertUnwindSafe(|| (self.prepare)(*generate, Arc::clone(&request))));
        let outcome = prepared.unwrap_or_else(|_| Err(panicked()));
        // A cancelled stream gets no further event.
        let cancelled = request.is_cancelled();
        match outcome {
            Ok(sequence) if !cancelled => {
                let prompt_tokens = sequence.prompt_len as u32;
                self.report(StreamEvent { id, kind: StreamEventKind::Admitted { prompt_tokens } });
                let _ = self.engine.send(EngineMessage::Sequence(Box::new(sequence)));
            }
            outcome => {
                self.requests.end(id);
                if let (Err(failure), false) = (outcome, cancelled) {
                    self.report(StreamEvent { id, kind: StreamEventKind::Failed(failure) });
                }
                let _ = self.engine.send(EngineMessage::Wake);
            }
        }
    }

    fn report(&self, event: StreamEvent) {
        self.reports.report(&Report::Events(vec![event]));
    }
}

/// Bytes that a request holds while it waits, and a measure of the work that it is.
fn size(generate: &Generate) -> usize {
    let prompt = match &generate.prompt {
        Prompt::Chat(messages) => messages
            .iter()
            .map(|message| {
                let name = message.name.as_ref().map_or(0, String::len);
                MESSAGE_BYTES + message.role.len() + message.content.len() + name
            })
            .sum(),
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(tokens) => size_of_val(tokens.as_slice()),
    };
    let bias = size_of_val(generate.sampling.logit_bias.as_slice());
    prompt + generate.stop.iter().map(String::len).sum::<usize>() + bias
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
