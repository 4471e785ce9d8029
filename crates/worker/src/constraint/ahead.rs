//! The thread that computes masks ahead.

use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{ConstraintError, position::Position};

/// Positions that may wait for the thread. Each sequence has at most one, and a step has hardly more rows than this; the
/// engine waits if it has.
const MAX_WAITING: usize = 1024;

/// A position with its mask.
pub(super) type Outcome = Result<Box<Position>, ConstraintError>;

/// A position whose mask is wanted, and who wants it.
pub(super) struct Job {
    pub(super) position: Box<Position>,
    pub(super) reply: Sender<Outcome>,
}

/// A thread that computes masks, in the order in which they are asked for. It ends when nobody can ask any more.
#[derive(Clone, Debug)]
pub struct MaskThread(Sender<Job>);

impl MaskThread {
    /// Starts it.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn start() -> std::io::Result<Self> {
        let (jobs, waiting) = bounded(MAX_WAITING);
        thread::Builder::new().name("masks".into()).spawn(move || run(&waiting))?;
        Ok(Self(jobs))
    }

    /// Has the mask of a position computed; returns the position if there is no thread for it.
    pub(super) fn compute(&self, job: Job) -> Result<(), Box<Position>> {
        self.0.send(job).map_err(|refused| refused.0.position)
    }
}

fn run(waiting: &Receiver<Job>) {
    for Job { mut position, reply } in waiting {
        let outcome = position.mask().map(drop).map(|()| position);
        // Its sequence may be gone.
        let _ = reply.send(outcome);
    }
}
