//! Constraints of outputs, compiled for the model's own tokens by llguidance.
//!
//! ```text
//! mod         one request's constraint; what takes too long is given up
//! compiler    what all of a model's constraints share, made when the first one comes
//! grammar     what a client asks for, as a grammar
//! factors     `multipleOf`, which can cost far more than its length says
//! vocabulary  the tokens as bytes
//! ```

mod compiler;
mod factors;
mod grammar;
mod vocabulary;

use std::{
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use compiler::Compiler;
use crossbeam_channel::{RecvTimeoutError, bounded};
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
    /// Each thread that compiles has a clone.
    running: Arc<()>,
    patience: Duration,
}

impl Default for Constraints {
    fn default() -> Self {
        Self { compiler: OnceLock::new(), running: Arc::default(), patience: PATIENCE }
    }
}

impl Constraints {
    /// The constraint that a request asks for, at the beginning of its output.
    ///
    /// # Errors
    /// It can't be compiled, or not in time; or this model can't follow any.
    pub(super) fn compile(
        &self,
        asked: &message::Constraint,
        ignore_eos: bool,
        vocabulary: Vocabulary<'_>,
    ) -> Result<Constraint, Failure> {
        let failure = |kind, message: String| Failure { kind, param: Some(asked.param.clone()), message };
        let compiler = self.compiler.get_or_init(|| {
            let compiler = Compiler::new(vocabulary).map_err(|error| reason(&error))?;
            Ok(Arc::new(compiler))
        });
        let compiler = compiler.as_ref().map_err(|reason| {
            failure(FailureKind::Internal, format!("this model's output can't be constrained: {reason}"))
        })?;
        if Arc::strong_count(&self.running) > MAX_RUNNING {
            let message = "constraints that take too long are still being compiled; try again later";
            return Err(failure(FailureKind::Overloaded, message.into()));
        }
        let (compiler, running, kind) = (Arc::clone(compiler), Arc::clone(&self.running), asked.kind.clone());
        let (compiled, result) = bounded(1);
        let work = move || {
            let _running = running;
            // Nobody waits any more if it took too long.
            let _ = compiled.send(compiler.compile(&kind, ignore_eos));
        };
        let thread = thread::Builder::new().name("compile".into()).stack_size(STACK).spawn(work);
        thread
            .map_err(|error| failure(FailureKind::Internal, format!("no thread can be started: {error}")))?;
        let refused = |reason: String| {
            failure(FailureKind::InvalidRequest, format!("`{}` can't be used: {reason}", asked.param))
        };
        match result.recv_timeout(self.patience) {
            Ok(compiled) => compiled.map_err(refused),
            Err(RecvTimeoutError::Timeout) => {
                Err(refused(format!("compiling it takes longer than {:?}", self.patience)))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(failure(FailureKind::Internal, "compiling the constraint panicked".into()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
