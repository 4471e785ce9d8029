//! Stage 9, step: the one thread that owns MLX. Each turn takes in what arrived, plans a step, runs the
//! model once over all planned rows, chooses tokens, and sends everything that came of it in one report.

mod outbox;
mod sequence;
mod step;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use crossbeam_channel::{Receiver, RecvError, TryRecvError};
use outbox::Outbox;
use protocol::{
    ids::RequestId,
    message::{Heartbeat, Report, StreamEvent, StreamEventKind},
};
pub use sequence::{EosTokens, Sequence};
pub use step::{Broken, Forward};
use tracing::debug_span;

use crate::{
    link::Reports,
    model::Model,
    requests::Registry,
    scheduler::{Limits, Scheduler},
};

/// What reaches the engine from other threads.
pub enum Inbox {
    /// A prepared request.
    Sequence(Box<Sequence>),
    /// A request's control changed: look at all of them again.
    Nudge,
    /// A request ended before it became a sequence.
    Ended,
    /// Finish everything, then stop.
    Drain,
}

/// Numbers for the heartbeat, written by the engine before and after each step.
#[derive(Debug, Default)]
pub struct Gauges {
    step: AtomicU64,
    runnable: AtomicU32,
    paused: AtomicU32,
    waiting: AtomicU32,
    kv_tokens: AtomicU64,
    kv_capacity: AtomicU64,
}

/// A sequence, and what the model keeps of it.
struct Slot<K> {
    sequence: Box<Sequence>,
    /// Keys and values of a prefix of the tokens, while it is running.
    kv: Option<K>,
    /// Its row in the step that is being put together.
    row: Option<usize>,
}

/// What became of one turn of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It ran a step.
    Stepped,
    /// Nothing can go on before another message.
    Idle,
    /// It has drained, or nobody can send to it any more.
    Ended,
}

/// The engine's whole state.
pub struct Engine<M: Forward = Model> {
    model: M,
    limits: Limits,
    scheduler: Scheduler,
    sequences: HashMap<RequestId, Slot<M::Kv>>,
    inbox: Receiver<Inbox>,
    registry: Arc<Registry>,
    outbox: Outbox,
    gauges: Arc<Gauges>,
    draining: bool,
    /// Steps in a row of which the model could compute nothing.
    failed_steps: u32,
}

impl<M: Forward> Engine<M> {
    /// An engine without sequences. It must stay on the thread that loaded the model.
    pub fn new(
        model: M,
        limits: Limits,
        inbox: Receiver<Inbox>,
        registry: Arc<Registry>,
        reports: Arc<dyn Reports>,
        gauges: Arc<Gauges>,
    ) -> Self {
        gauges.kv_capacity.store(limits.kv_tokens as u64, Ordering::Relaxed);
        Self {
            model,
            limits,
            scheduler: Scheduler::new(limits),
            sequences: HashMap::new(),
            inbox,
            registry,
            outbox: Outbox::new(reports),
            gauges,
            draining: false,
            failed_steps: 0,
        }
    }

    /// Serves until it has drained, or nobody can send to it any more.
    ///
    /// # Errors
    /// The model can't compute anything any more: only a new process can.
    pub fn run(mut self) -> Result<(), Broken> {
        loop {
            match self.turn()? {
                Turn::Stepped => {}
                // Wait for a request, a credit, a cancellation.
                Turn::Idle => match self.inbox.recv() {
                    Ok(message) => self.take_in(message),
                    Err(RecvError) => return Ok(()),
                },
                Turn::Ended => return Ok(()),
            }
        }
    }

    /// Takes in what has arrived and runs one step, if there is anything to run.
    fn turn(&mut self) -> Result<Turn, Broken> {
        if self.take_in_all().is_err() {
            return Ok(Turn::Ended);
        }
        self.look_at_controls();
        let plan = debug_span!("schedule").in_scope(|| self.scheduler.plan());
        // Before the step, too: one that never ends must be seen to have something to do.
        self.publish_gauges();
        if !plan.rows.is_empty() {
            self.step(&plan)?;
            return Ok(Turn::Stepped);
        }
        if self.draining && self.registry.is_empty() {
            self.outbox.report(&Report::Drained);
            return Ok(Turn::Ended);
        }
        Ok(Turn::Idle)
    }

    fn take_in_all(&mut self) -> Result<(), RecvError> {
        loop {
            match self.inbox.try_recv() {
                Ok(message) => self.take_in(message),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
            }
        }
    }

    fn take_in(&mut self, message: Inbox) {
        match message {
            Inbox::Sequence(sequence) => {
                self.scheduler.add(sequence.id, sequence.tokens.len());
                self.sequences.insert(sequence.id, Slot { sequence, kv: None, row: None });
            }
            Inbox::Drain => self.draining = true,
            Inbox::Nudge | Inbox::Ended => {}
        }
    }

    /// Removes what was cancelled and pauses what has no credit.
    fn look_at_controls(&mut self) {
        let mut cancelled = Vec::new();
        for (&id, Slot { sequence, .. }) in &self.sequences {
            if sequence.control.is_cancelled() {
                cancelled.push(id);
            } else {
                self.scheduler.set_paused(id, !sequence.control.has_credit());
            }
        }
        for id in cancelled {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: RequestId) {
        self.scheduler.remove(id);
        self.sequences.remove(&id);
        self.registry.end(id);
    }

    fn end(&mut self, id: RequestId, kind: StreamEventKind) {
        self.outbox.push(StreamEvent { id, kind });
        self.remove(id);
    }

    fn publish_gauges(&self) {
        let gauges = &self.gauges;
        gauges.runnable.store(self.scheduler.runnable() as u32, Ordering::Relaxed);
        gauges.paused.store(self.scheduler.paused() as u32, Ordering::Relaxed);
        gauges.waiting.store(self.scheduler.waiting() as u32, Ordering::Relaxed);
        gauges.kv_tokens.store(self.scheduler.held_tokens() as u64, Ordering::Relaxed);
    }
}

impl Gauges {
    /// The numbers now.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            step: self.step.load(Ordering::Relaxed),
            runnable: self.runnable.load(Ordering::Relaxed),
            paused: self.paused.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            oldest_preparation_millis: 0,
            kv_tokens: self.kv_tokens.load(Ordering::Relaxed),
            kv_capacity: self.kv_capacity.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests;
