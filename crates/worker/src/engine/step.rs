//! One step: run the model over the planned rows, choose tokens, and see to it that a row that fails fails alone.

use std::sync::atomic::Ordering;

use protocol::message::{StreamEvent, StreamEventKind};
use thiserror::Error;
use tracing::{debug_span, error, warn};

use super::{Engine, Slot, outbox::failed};
use crate::{
    model::{Logits, Model, ModelError, SequenceKv, StepInput, StepRow},
    scheduler::{PlannedRow, StepPlan},
};

/// Steps that may fail in a row before the engine asks whether the model can compute at all. After repeated errors
/// macOS ignores everything that a process submits to its GPU.
pub(super) const FAILED_STEPS: u32 = 5;

/// The model can't compute anything any more.
#[derive(Debug, Error)]
#[error(
    "{FAILED_STEPS} steps in a row have failed, and so does the simplest one: the device does not compute any more"
)]
pub struct Broken {
    /// Why the simplest one fails.
    #[source]
    pub source: ModelError,
}

/// What the engine needs of a model.
pub trait Forward {
    /// What it keeps of a sequence between steps.
    type Kv;

    /// Keys and values of a sequence that has no tokens yet.
    fn new_kv(&self) -> Self::Kv;

    /// Whether a sequence can go on with what it has after a step that failed; see [`SequenceKv::is_intact`].
    fn is_intact(&self, kv: &Self::Kv) -> bool;

    /// Runs the new tokens of several sequences; see [`Model::forward`].
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    fn forward(&self, input: &mut StepInput<'_, Self::Kv>) -> Result<Option<Logits>, ModelError>;
}

impl Forward for Model {
    type Kv = SequenceKv;

    fn new_kv(&self) -> SequenceKv {
        Self::new_kv(self)
    }

    fn is_intact(&self, kv: &SequenceKv) -> bool {
        kv.is_intact()
    }

    fn forward(&self, input: &mut StepInput<'_>) -> Result<Option<Logits>, ModelError> {
        Self::forward(self, input)
    }
}

impl<M: Forward> Engine<M> {
    pub(super) fn step(&mut self, plan: &StepPlan) -> Result<(), Broken> {
        for id in &plan.preempted {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.kv = None;
            }
        }
        let _span = debug_span!("step", rows = plan.rows.len()).entered();
        let computed = self.compute(&plan.rows);
        self.gauges.step.fetch_add(1, Ordering::Relaxed);
        self.publish_gauges();
        self.outbox.send();
        if computed {
            self.failed_steps = 0;
            return Ok(());
        }
        self.failed_steps += 1;
        if self.failed_steps < FAILED_STEPS {
            return Ok(());
        }
        self.failed_steps = 0;
        self.probe().map_err(|source| Broken { source })
    }

    /// Computes the rows, all at once unless that fails. False if the model failed on every one of them.
    fn compute(&mut self, rows: &[PlannedRow]) -> bool {
        let mut rows = rows.to_vec();
        loop {
            match self.forward(&rows) {
                Ok(logits) => {
                    debug_span!("emit").in_scope(|| self.extend(&rows, logits.as_ref()));
                    return true;
                }
                // It was refused before anything was computed: the others can go on together.
                Err(error) if error.row().is_some_and(|row| row < rows.len()) => {
                    let row = rows.remove(error.row().unwrap_or_default());
                    self.fail(row, &error);
                    if rows.is_empty() {
                        return true;
                    }
                }
                Err(error) => return self.compute_apart(&rows, &error),
            }
        }
    }

    /// The model failed on all rows together: which of them is to blame is found out one by one.
    fn compute_apart(&mut self, rows: &[PlannedRow], error: &ModelError) -> bool {
        if let [row] = *rows {
            self.fail(row, error);
            return false;
        }
        warn!(%error, rows = rows.len(), "a step failed; its rows are tried one by one");
        let mut computed = false;
        for &row in rows {
            match self.recover(row) {
                Ok(logits) => {
                    self.extend(&[row], logits.as_ref());
                    computed = true;
                }
                Err(error) => self.fail(row, &error),
            }
        }
        computed
    }

    /// Computes one row alone, after a step with it has failed.
    fn recover(&mut self, row: PlannedRow) -> Result<Option<Logits>, ModelError> {
        let Some(sequence) = self.sequences.get_mut(&row.id) else { return Ok(None) };
        if sequence.kv.as_ref().is_some_and(|kv| self.model.is_intact(kv)) {
            return self.forward(&[row]);
        }
        // What it had is in an unknown state: from the start, cut as ever.
        sequence.kv = None;
        let chunk = self.limits.chunk_tokens;
        for start in (0..row.start).step_by(chunk) {
            let end = row.start.min(start + chunk);
            self.forward(&[PlannedRow { start, end, samples: false, ..row }])?;
        }
        self.forward(&[row])
    }

    /// Runs the model over the rows. Logits come in the order of the rows that sample.
    fn forward(&mut self, rows: &[PlannedRow]) -> Result<Option<Logits>, ModelError> {
        for (index, row) in rows.iter().enumerate() {
            if let Some(sequence) = self.sequences.get_mut(&row.id) {
                sequence.row = Some(index);
            }
        }
        // The model needs all rows' tokens and memory at once, in the order of the rows.
        let planned =
            self.sequences.values_mut().filter_map(|sequence| Some((sequence.row.take()?, sequence)));
        let mut planned: Vec<(usize, &mut Slot<M::Kv>)> = planned.collect();
        planned.sort_unstable_by_key(|(index, _)| *index);
        let step_rows = planned.into_iter().map(|(index, sequence)| {
            let Slot { sequence, kv, .. } = sequence;
            StepRow {
                tokens: &sequence.tokens[rows[index].start..rows[index].end],
                kv: kv.get_or_insert_with(|| self.model.new_kv()),
                wants_logits: rows[index].samples,
            }
        });
        self.model.forward(&mut StepInput { rows: step_rows.collect() })
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
            let result = self.sequences.get_mut(&row.id).map(|Slot { sequence, .. }| {
                sequence.control.spend_credit();
                (sequence.extend(logits.row(next)), sequence.usage())
            });
            next += 1;
            match result {
                Some((Ok((chunk, reason)), usage)) => {
                    let sent =
                        self.outbox.push(StreamEvent { id: row.id, kind: StreamEventKind::Chunk(chunk) });
                    if !sent {
                        self.remove(row.id);
                    } else if let Some(reason) = reason {
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

    fn fail(&mut self, row: PlannedRow, error: &ModelError) {
        error!(id = %row.id, %error, "a row of a step failed");
        self.end(row.id, failed(format!("the model failed: {error}")));
    }

    /// The least that the model can be asked for.
    fn probe(&self) -> Result<(), ModelError> {
        let mut kv = self.model.new_kv();
        let rows = vec![StepRow { tokens: &[0], kv: &mut kv, wants_logits: true }];
        self.model.forward(&mut StepInput { rows }).map(drop)
    }
}
