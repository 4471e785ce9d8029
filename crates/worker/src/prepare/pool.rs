//! The threads that prepare.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use protocol::message::{Failure, FailureKind, Generate, StreamEvent, StreamEventKind};

use super::Preparer;
use crate::{
    engine::Inbox,
    link::Reports,
    requests::{Control, Registry},
};

/// Requests that may wait for preparation. The gateway admits far fewer streams than this.
const MAX_QUEUED: usize = 1024;

type Job = (Box<Generate>, Arc<Control>);

/// A bounded queue and the threads behind it. Dropping it ends them after what is queued.
#[derive(Clone, Debug)]
pub struct Pool {
    jobs: Sender<Job>,
}

/// What the threads share.
struct Context {
    preparer: Preparer,
    registry: Arc<Registry>,
    reports: Arc<dyn Reports>,
    engine: Sender<Inbox>,
}

impl Pool {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn start(
        threads: usize,
        preparer: Preparer,
        registry: Arc<Registry>,
        reports: Arc<dyn Reports>,
        engine: Sender<Inbox>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = bounded::<Job>(MAX_QUEUED);
        let context = Arc::new(Context { preparer, registry, reports, engine });
        for n in 0..threads {
            let (queue, context) = (queue.clone(), Arc::clone(&context));
            thread::Builder::new().name(format!("prepare-{n}")).spawn(move || context.run(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Queues a request.
    ///
    /// # Errors
    /// The queue is full; the failure is for the client.
    pub fn submit(&self, generate: Box<Generate>, control: Arc<Control>) -> Result<(), Failure> {
        self.jobs.try_send((generate, control)).map_err(|error| Failure {
            kind: FailureKind::Internal,
            param: None,
            message: match error {
                TrySendError::Full(_) => format!("{MAX_QUEUED} requests wait for preparation already"),
                TrySendError::Disconnected(_) => "the worker is stopping".into(),
            },
        })
    }
}

impl Context {
    fn run(&self, queue: &Receiver<Job>) {
        for (generate, control) in queue {
            let id = generate.id;
            if control.is_cancelled() {
                self.registry.end(id);
                let _ = self.engine.send(Inbox::Ended);
                continue;
            }
            // A panic in a template or tokenizer is this request's trouble alone.
            let prepared = catch_unwind(AssertUnwindSafe(|| self.preparer.prepare(*generate, control)));
            let event = match prepared.unwrap_or_else(|_| Err(panicked())) {
                Ok(sequence) => {
                    let prompt_tokens = sequence.prompt_len as u32;
                    self.report(StreamEvent { id, kind: StreamEventKind::Admitted { prompt_tokens } });
                    let _ = self.engine.send(Inbox::Sequence(Box::new(sequence)));
                    continue;
                }
                Err(failure) => StreamEvent { id, kind: StreamEventKind::Failed(failure) },
            };
            self.registry.end(id);
            self.report(event);
            let _ = self.engine.send(Inbox::Ended);
        }
    }

    fn report(&self, event: StreamEvent) {
        self.reports.report(&protocol::message::Report::Events(vec![event]));
    }
}

fn panicked() -> Failure {
    Failure {
        kind: FailureKind::Internal,
        param: None,
        message: "preparing the prompt panicked; the worker's log has the details".into(),
    }
}
