//! Constraints of outputs, compiled for the model's own tokens by llguidance.
//!
//! ```text
//! mod         one request's constraint; what takes too long is given up
//! cache       what was compiled lately
//! compiler    what all of a model's constraints share, made when the first one comes
//! grammar     what a client asks for, as a grammar
//! factors     `multipleOf`, which can cost far more than its length says
//! vocabulary  the tokens as bytes
//! ```

mod cache;
mod compiler;
mod factors;
mod grammar;
mod vocabulary;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use cache::{Cache, Outcome};
use compiler::Compiler;
use crossbeam_channel::{RecvTimeoutError, bounded};
use grammar::Demand;
use protocol::message::{self, Failure, FailureKind};
pub(super) use vocabulary::Vocabulary;

use crate::constraint::{Constraint, reason};

/// How long one may take. Nearly all take some milliseconds, and the largest that are useful some hundreds.
const PATIENCE: Duration = Duration::from_secs(3);

/// Constraints that may be compiled at a time: one for each thread that prepares, and a few that were given up, since the
/// library can't be stopped.
const MAX_RUNNING: usize = 4;

/// Schemas refer to each other, and the library follows them by recursion: 16 MiB for the longest chain in
/// [`message::Constraint::MAX_BYTES`]. Only what is used of it takes memory.
const STACK: usize = 64 << 20;

/// Compiles constraints for one model.
#[derive(Debug)]
pub(super) struct Constraints {
    compiler: OnceLock<Result<Arc<Compiler>, String>>,
    cache: Arc<Mutex<Cache>>,
    /// Each thread that compiles has a clone.
    running: Arc<()>,
    patience: Duration,
    /// How many were compiled.
    compiled: AtomicU64,
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            compiler: OnceLock::new(),
            cache: Arc::default(),
            running: Arc::default(),
            patience: PATIENCE,
            compiled: AtomicU64::new(0),
        }
    }
}

impl Constraints {
    /// The constraint that a request asks for, at the beginning of its output. `around` is a grammar of outputs that have the
    /// answer as a part; `None` if it is all.
    ///
    /// # Errors
    /// It can't be compiled, or not in time; or this model can't follow any.
    pub(super) fn compile(
        &self,
        asked: &message::Constraint,
        around: Option<&'static str>,
        ignore_eos: bool,
        vocabulary: Vocabulary<'_>,
    ) -> Result<Constraint, Failure> {
        let compiler = self.compiler.get_or_init(|| {
            let compiler = Compiler::new(vocabulary).map_err(|error| reason(&error))?;
            Ok(Arc::new(compiler))
        });
        let compiler = compiler.as_ref().map_err(|reason| {
            let message = format!("this model's output can't be constrained: {reason}");
            failure(asked, FailureKind::Internal, message)
        })?;
        let demand = Demand { kind: asked.kind.clone(), around };
        let known = lock(&self.cache).get(&demand);
        let outcome = match known {
            Some(outcome) => outcome,
            None => self.compile_in_time(compiler, asked, demand)?,
        };
        let prototype = outcome.map_err(|reason| refused(asked, &reason))?;
        Ok(compiler.begin(&prototype, ignore_eos))
    }

    /// What comes of compiling it, on a thread of its own. If it takes too long, nobody waits for it any more, but what comes
    /// of it is kept for those who ask again.
    fn compile_in_time(
        &self,
        compiler: &Arc<Compiler>,
        asked: &message::Constraint,
        demand: Demand,
    ) -> Result<Outcome, Failure> {
        if Arc::strong_count(&self.running) > MAX_RUNNING {
            let message = "constraints that take too long are still being compiled; try again later";
            return Err(failure(asked, FailureKind::Overloaded, message.into()));
        }
        self.compiled.fetch_add(1, Ordering::Relaxed);
        let (compiler, running) = (Arc::clone(compiler), Arc::clone(&self.running));
        let (cache, bytes) = (Arc::clone(&self.cache), asked.bytes());
        let (compiled, result) = bounded(1);
        let work = move || {
            let _running = running;
            let outcome = compiler.compile(&demand).map(Arc::new);
            let kept = match &outcome {
                Ok(prototype) => prototype.bytes(bytes),
                Err(reason) => bytes + reason.len(),
            };
            lock(&cache).insert(demand, outcome.clone(), kept);
            // Nobody waits any more if it took too long.
            let _ = compiled.send(outcome);
        };
        let thread = thread::Builder::new().name("compile".into()).stack_size(STACK).spawn(work);
        thread.map_err(|error| {
            failure(asked, FailureKind::Internal, format!("no thread can be started: {error}"))
        })?;
        result.recv_timeout(self.patience).map_err(|missing| match missing {
            RecvTimeoutError::Timeout => {
                refused(asked, &format!("compiling it takes longer than {:?}", self.patience))
            }
            RecvTimeoutError::Disconnected => {
                failure(asked, FailureKind::Internal, "compiling the constraint panicked".into())
            }
        })
    }
}

fn lock(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    // It is right after every statement.
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(asked: &message::Constraint, reason: &str) -> Failure {
    failure(asked, FailureKind::InvalidRequest, format!("`{}` can't be used: {reason}", asked.param))
}

fn failure(asked: &message::Constraint, kind: FailureKind, message: String) -> Failure {
    Failure { kind, param: Some(asked.param.clone()), message }
}

#[cfg(test)]
mod tests;
