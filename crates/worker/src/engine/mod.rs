//! Stage 9, step: the one thread that owns MLX. Each turn takes in what arrived, plans a step, runs the
//! model once over all planned rows, chooses tokens, and sends everything that came of it in one report.

mod sequence;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use crossbeam_channel::{Receiver, RecvError, TryRecvError};
use protocol::{
    ids::RequestId,
    message::{Failure, FailureKind, Heartbeat, Report, StreamEvent, StreamEventKind},
};
pub use sequence::Sequence;
use tracing::{error, trace};

use crate::{
    link::Reports,
    model::{Logits, Model, ModelError, StepInput, StepRow},
    requests::Registry,
    scheduler::{Limits, PlannedRow, Scheduler, StepPlan},
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

/// Numbers for the heartbeat, written by the engine once a step.
#[derive(Debug, Default)]
pub struct Gauges {
    step: AtomicU64,
    runnable: AtomicU32,
    paused: AtomicU32,
    waiting: AtomicU32,
    kv_tokens: AtomicU64,
    kv_capacity: AtomicU64,
}

/// The engine's whole state.
pub struct Engine {
    model: Model,
    scheduler: Scheduler,
    sequences: HashMap<RequestId, Sequence>,
    inbox: Receiver<Inbox>,
    registry: Arc<Registry>,
    reports: Arc<dyn Reports>,
    gauges: Arc<Gauges>,
    draining: bool,
    /// Of the current step; sent as one report.
    events: Vec<StreamEvent>,
}

impl Engine {
    /// An engine without sequences. It must stay on the thread that loaded the model.
    pub fn new(
        model: Model,
        limits: Limits,
        inbox: Receiver<Inbox>,
        registry: Arc<Registry>,
        reports: Arc<dyn Reports>,
        gauges: Arc<Gauges>,
    ) -> Self {
        gauges.kv_capacity.store(limits.kv_tokens as u64, Ordering::Relaxed);
        Self {
            model,
            scheduler: Scheduler::new(limits),
            sequences: HashMap::new(),
            inbox,
            registry,
            reports,
            gauges,
            draining: false,
            events: Vec::new(),
        }
    }

    /// Serves until it has drained, or nobody can send to it any more.
    pub fn run(mut self) {
        loop {
            if self.take_in_all().is_err() {
                return;
            }
            self.look_at_controls();
            let plan = self.scheduler.plan();
            if !plan.rows.is_empty() {
                self.step(&plan);
                continue;
            }
            self.publish_gauges();
            if self.draining && self.registry.is_empty() {
                self.reports.report(&Report::Drained);
                return;
            }
            // Nothing can go on: wait for a request, a credit, a cancellation.
            match self.inbox.recv() {
                Ok(message) => self.take_in(message),
                Err(RecvError) => return,
            }
        }
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
                self.sequences.insert(sequence.id, *sequence);
            }
            Inbox::Drain => self.draining = true,
            Inbox::Nudge | Inbox::Ended => {}
        }
    }

    /// Removes what was cancelled and pauses what has no credit.
    fn look_at_controls(&mut self) {
        let mut cancelled = Vec::new();
        for (&id, sequence) in &self.sequences {
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

    fn step(&mut self, plan: &StepPlan) {
        for id in &plan.preempted {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.kv = None;
            }
        }
        trace!(rows = plan.rows.len(), "step");
        match self.forward(&plan.rows) {
            Ok(logits) => self.extend(&plan.rows, logits.as_ref()),
            Err(error) => self.fail_rows(&plan.rows, &error),
        }
        self.gauges.step.fetch_add(1, Ordering::Relaxed);
        self.publish_gauges();
        if !self.events.is_empty() {
            let report = Report::Events(std::mem::take(&mut self.events));
            self.reports.report(&report);
            if let Report::Events(mut events) = report {
                events.clear();
                self.events = events;
            }
        }
    }

    /// Runs the model over the rows. Logits come in the order of the rows that sample.
    fn forward(&mut self, rows: &[PlannedRow]) -> Result<Option<Logits>, ModelError> {
        // The model needs all rows' tokens and memory at once, so they leave the map for the call.
        let mut taken: Vec<(PlannedRow, Sequence)> = rows
            .iter()
            .filter_map(|row| self.sequences.remove(&row.id).map(|sequence| (*row, sequence)))
            .collect();
        let step_rows = taken
            .iter_mut()
            .map(|(row, sequence)| StepRow {
                tokens: &sequence.tokens[row.start..row.end],
                kv: sequence.kv.get_or_insert_with(|| self.model.new_kv()),
                wants_logits: row.samples,
            })
            .collect();
        let logits = self.model.forward(&mut StepInput { rows: step_rows });
        self.sequences.extend(taken.into_iter().map(|(_, sequence)| (sequence.id, sequence)));
        logits
    }

    /// Records what was computed and appends a token to every sequence that samples.
    fn extend(&mut self, rows: &[PlannedRow], logits: Option<&Logits>) {
        let mut next = 0;
        for row in rows {
            self.scheduler.advance(row);
            if !row.samples {
                continue;
            }
            let Some(logits) = logits else { continue };
            let result = self.sequences.get_mut(&row.id).map(|sequence| {
                sequence.control.spend_credit();
                (sequence.extend(logits.row(next)), sequence.usage())
            });
            next += 1;
            match result {
                Some((Ok((chunk, reason)), usage)) => {
                    self.events.push(StreamEvent { id: row.id, kind: StreamEventKind::Chunk(chunk) });
                    if let Some(reason) = reason {
                        self.end(row.id, StreamEventKind::Finished { reason, usage });
                    }
                }
                Some((Err(error), _)) => {
                    self.end(row.id, failed(format!("the tokenizer failed on the output: {error}")));
                }
                None => {}
            }
        }
    }

    /// An MLX error ends the requests that took part in the step: their memory is in an unknown state.
    fn fail_rows(&mut self, rows: &[PlannedRow], error: &ModelError) {
        error!(%error, rows = rows.len(), "step failed");
        for row in rows {
            self.end(row.id, failed(format!("the model failed: {error}")));
        }
    }

    fn end(&mut self, id: RequestId, kind: StreamEventKind) {
        self.events.push(StreamEvent { id, kind });
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

fn failed(message: String) -> StreamEventKind {
    StreamEventKind::Failed(Failure { kind: FailureKind::Internal, param: None, message })
}
