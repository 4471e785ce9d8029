//! One step: schedule, run, sample, emit. A row on which the model fails fails alone.

use std::{collections::HashMap, time::Instant};

use protocol::message::{DeltaTokens, StreamEvent, StreamEventKind};
use thiserror::Error;
use tracing::{debug_span, error, warn};

use super::{Engine, Forward, OutputError, Slot, emit::failed, kept::KeptMemory, step_time::Stage};
use crate::{
    model::{Landed, ModelError, StepInput, StepRow},
    sample::Choice,
    schedule::{PlannedRow, SequenceId, StepLoad},
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

/// What could be computed of a step.
pub(super) struct Computed {
    rows: Vec<PlannedRow>,
    /// Of each row how the device has chosen the token behind it, if it has.
    choices: Vec<Option<Choice>>,
    landed: Landed,
}

impl<M: Forward> Engine<M> {
    /// False if there was nothing to run.
    pub(super) fn step(&mut self) -> Result<bool, Broken> {
        if let Some(flight) = self.flight.take() {
            return self.step_ahead(flight);
        }
        let began = Instant::now();
        let (rows, guessing) = debug_span!("schedule").in_scope(|| {
            let guessing = self.guess();
            (self.schedule(), guessing)
        });
        // Before the step, too: one that never ends must be seen to have something to do.
        self.stats.publish(&self.scheduler, self.kept.used_tokens());
        if rows.is_empty() {
            return Ok(false);
        }
        self.announce(&rows);
        self.stats.time.spend(Stage::Schedule);
        self.flight = self.launch(&rows, None);
        if self.flight.is_some() {
            self.stats.time.spend_on_model(self.model.take_building());
            return Ok(true);
        }
        let (count, load) = (rows.len(), StepLoad::of(&rows));
        let span = debug_span!("step", rows = rows.len()).entered();
        self.append_drafts(&rows);
        let computed = self.run_model(rows);
        self.stats.time.spend_on_model(self.model.take_building());
        for computed in computed.iter().flatten() {
            self.withdraw_drafts(&computed.rows);
            self.sample(computed);
        }
        drop(span);
        self.stats.time.spend(Stage::Sample);
        self.deliver();
        self.learn_step(count, load, began.elapsed().saturating_sub(guessing));
        self.check_device(computed.is_some())?;
        Ok(true)
    }

    /// Sends what a step has given.
    pub(super) fn deliver(&mut self) {
        let _span = debug_span!("emit").entered();
        self.emit();
        self.stats.count_step();
        self.stats.publish(&self.scheduler, self.kept.used_tokens());
        self.outbox.send();
        self.stats.time.spend(Stage::Emit);
    }

    fn schedule(&mut self) -> Vec<PlannedRow> {
        let Self { model, scheduler, slots, kept, .. } = self;
        scheduler.plan(&mut KeptMemory { kept, slots, model }).rows
    }

    /// Says whose first step this is.
    fn announce(&mut self, rows: &[PlannedRow]) {
        for row in rows {
            if let Some(slot) = self.slots.get_mut(&row.id)
                && !std::mem::replace(&mut slot.started, true)
            {
                let kind = StreamEventKind::Started { cached_tokens: slot.first_computed as u32 };
                self.outbox.push(StreamEvent { id: slot.sequence.id, kind });
            }
        }
        self.outbox.send();
    }

    /// Runs the model over the rows, all at once unless that fails. `None` if it failed on every one of them.
    fn run_model(&mut self, mut rows: Vec<PlannedRow>) -> Option<Vec<Computed>> {
        loop {
            let error = match self.forward(&rows) {
                Ok((choices, landed)) => return Some(vec![Computed { rows, choices, landed }]),
                Err(error) => error,
            };
            let Some(refused) = error.row().filter(|&row| row < rows.len()) else {
                return self.run_apart(rows, &error);
            };
            // It was refused before anything was computed: the others can go on together.
            self.fail(rows.remove(refused).id, &error);
            if rows.is_empty() {
                return Some(Vec::new());
            }
        }
    }

    /// The model failed on all rows together: which of them is to blame is found out one by one.
    pub(super) fn run_apart(&mut self, rows: Vec<PlannedRow>, error: &ModelError) -> Option<Vec<Computed>> {
        if let [row] = &rows[..] {
            self.fail(row.id, error);
            return None;
        }
        warn!(%error, rows = rows.len(), "a step failed; its rows are tried one by one");
        let mut computed = Vec::new();
        for row in rows {
            match self.forward(std::slice::from_ref(&row)) {
                Ok((choices, landed)) => computed.push(Computed { rows: vec![row], choices, landed }),
                Err(error) => self.fail(row.id, &error),
            }
        }
        (!computed.is_empty()).then_some(computed)
    }

    /// Runs the model over the rows. Tokens and logits come in the order of the rows.
    fn forward(&mut self, rows: &[PlannedRow]) -> Result<(Vec<Option<Choice>>, Landed), ModelError> {
        let choices: Vec<Option<Choice>> = rows.iter().map(|row| self.choice(row)).collect();
        self.assign_rows(rows);
        // The model needs all rows' tokens and memory at once.
        let step_rows =
            take_rows(&mut self.slots).into_iter().map(|(index, _, Slot { sequence, kv, .. })| {
                let PlannedRow { tokens, logits, .. } = &rows[index];
                StepRow {
                    tokens: &sequence.tokens[tokens.clone()],
                    kv: kv.get_or_insert_with(|| self.model.new_kv()),
                    logits: logits.start - tokens.start..logits.end - tokens.start,
                    adapter: sequence.adapter.as_ref(),
                }
            });
        let landed = self.model.forward_choosing(&mut StepInput { rows: step_rows.collect() }, &choices)?;
        Ok((choices, landed))
    }

    /// Says which row of a step is whose.
    pub(super) fn assign_rows(&mut self, rows: &[PlannedRow]) {
        for (index, row) in rows.iter().enumerate() {
            if let Some(slot) = self.slots.get_mut(&row.id) {
                slot.row = Some(index);
                slot.sequence.spans.step();
            }
        }
    }

    /// Records what was computed, and chooses the tokens that follow every sequence of which all tokens are.
    pub(super) fn sample(&mut self, computed: &Computed) {
        let Computed { rows, choices, landed } = computed;
        let (mut next, mut chosen) = (0, landed.chosen.iter());
        for (row, choice) in rows.iter().zip(choices) {
            if !row.samples() {
                self.record(row, 0);
            } else if choice.is_some() {
                let token = chosen.next().map(|&token| (row.id, DeltaTokens::from(&[token][..])));
                self.record_sampled(rows, token.into_iter().collect());
            } else if let Some(slot) = self.slots.get_mut(&row.id) {
                slot.row = Some(next);
                self.stats.advance();
            }
            next += row.logits.len();
        }
        // Afterwards all at once, on several threads.
        let sampling = take_rows(&mut self.slots);
        let Some(logits) = &landed.logits else { return };
        let (mut ids, mut sampled, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (row, id, Slot { sequence, speculation, .. }) in sampling {
            let draft = speculation.draft();
            match sequence.row(logits.rows_of(row..row + 1 + draft.len()), draft) {
                Ok(row) => {
                    ids.push(id);
                    sampled.push(row);
                }
                Err(error) => failed.push((id, error)),
            }
        }
        let tokens = self.sample_threads.sample(sampled);
        self.record_sampled(rows, ids.into_iter().zip(tokens).collect());
        failed.into_iter().for_each(|(id, error)| self.fail_output(id, error));
    }

    /// Records of the rows that sample how many of their tokens count.
    fn record_sampled(&mut self, rows: &[PlannedRow], sampled: Vec<(SequenceId, DeltaTokens)>) {
        let mut rows = rows.iter();
        // They are in the order of the rows.
        for (id, tokens) in &sampled {
            if let Some(row) = rows.find(|row| row.id == *id) {
                self.settle_draft(row, tokens.len().saturating_sub(1));
                self.record(row, tokens.len());
            }
        }
        self.sampled.extend(sampled);
    }

    /// Records that a row was computed, and how many tokens follow.
    fn record(&mut self, row: &PlannedRow, tokens: usize) {
        self.scheduler.advance(row, tokens);
        self.publish_prefix(row);
    }

    /// Lets later sequences go on behind what was computed of a prompt.
    fn publish_prefix(&mut self, row: &PlannedRow) {
        if let Some(slot) = self.slots.get_mut(&row.id)
            && row.tokens.start < slot.sequence.prompt_len
        {
            self.kept.publish(row.id, slot, &mut self.scheduler, &self.model);
        }
    }

    /// Turns the new tokens into events.
    fn emit(&mut self) {
        let mut sampled = std::mem::take(&mut self.sampled);
        for (id, tokens) in sampled.drain(..) {
            self.stats.advance();
            let Some(Slot { sequence, .. }) = self.slots.get_mut(&id) else { continue };
            sequence.request.spend_credit();
            sequence.spans.emit();
            match sequence.emit(&tokens) {
                Ok((delta, reason)) => {
                    if reason.is_none() {
                        sequence.look_ahead();
                    }
                    let event = StreamEvent { id: sequence.id, kind: StreamEventKind::Delta(delta) };
                    if !self.outbox.push(event) {
                        self.remove(id);
                    } else if let Some(reason) = reason {
                        self.finish(id, reason);
                    }
                }
                Err(error) => self.fail_output(id, error),
            }
        }
        self.sampled = sampled;
    }

    fn fail(&mut self, id: SequenceId, error: &ModelError) {
        if let Some(Slot { sequence, .. }) = self.slots.get(&id) {
            sequence.spans.in_scope(|| error!(id = sequence.id.0, %error, "a row of a step failed"));
        }
        self.end(id, failed(format!("the model failed: {error}")));
    }

    fn fail_output(&mut self, id: SequenceId, error: OutputError) {
        if let Some(Slot { sequence, .. }) = self.slots.get(&id) {
            // Without its source, which may quote what only the client is to read.
            sequence.spans.in_scope(|| error!(id = sequence.id.0, %error, "an output can't go on"));
        }
        self.end(id, failed(format!("{:#}", anyhow::Error::new(error))));
    }

    /// After steps of which nothing could be computed: whether anything can.
    pub(super) fn check_device(&mut self, computed: bool) -> Result<(), Broken> {
        self.failed_steps = if computed { 0 } else { self.failed_steps + 1 };
        if self.failed_steps < FAILED_STEPS {
            return Ok(());
        }
        self.failed_steps = 0;
        // The least that the model can be asked for.
        let mut kv = self.model.new_kv();
        let rows = vec![StepRow::last_logits(&[0], &mut kv)];
        self.model.forward(&mut StepInput { rows }).map(drop).map_err(|source| Broken { source })
    }
}

/// The slots that were given a row, in the order of these.
pub(super) fn take_rows<K>(
    slots: &mut HashMap<SequenceId, Slot<K>>,
) -> Vec<(usize, SequenceId, &mut Slot<K>)> {
    let with_rows = slots.iter_mut().filter_map(|(&id, slot)| Some((slot.row.take()?, id, slot)));
    let mut with_rows: Vec<_> = with_rows.collect();
    with_rows.sort_unstable_by_key(|(row, ..)| *row);
    with_rows
}
