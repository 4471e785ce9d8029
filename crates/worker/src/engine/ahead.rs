//! Steps that are launched before the tokens of the one before are read: while the host looks at tokens, turns them into
//! text and reports them, the device computes the next ones.
//!
//! ```text
//! device  │ step 1            │ step 2            │ step 3            │
//! host    │ launch 2 │ (wait) │ emit 1 │ launch 3 │ emit 2 │ launch 4 │
//! ```
//!
//! Only steps that do nothing but decode are launched, and only if the device chooses the tokens behind all of their rows.
//! Whatever else is to be done, for a prompt that has arrived or a row that needs the host, waits for the step that was
//! launched. A sequence of which a token turns out to be the last has been computed one token too far by then: that one is
//! dropped.

use std::time::Instant;

use protocol::message::DeltaTokens;
use tracing::{debug_span, warn};

use super::{Broken, Engine, Forward, Slot, kept::KeptMemory, step::take_rows, step_time::Stage};
use crate::{
    model::{Before, LaunchInput, ModelError, StepInput, StepRow},
    sample::Choice,
    schedule::{PlannedRow, SequenceId, StepLoad},
};

/// A step that the device computes. To the scheduler each of its rows has its next token already.
pub(super) struct Flight<L> {
    rows: Vec<PlannedRow>,
    launched: L,
    /// When the device had nothing else to do.
    began: Instant,
}

impl<L> Flight<L> {
    /// A sequence's row.
    pub(super) fn row(&self, id: SequenceId) -> Option<&PlannedRow> {
        self.rows.iter().find(|row| row.id == id)
    }

    /// Which of its chosen tokens is a sequence's.
    fn place(&self, id: SequenceId) -> Option<usize> {
        self.rows.iter().position(|row| row.id == id)
    }
}

impl<M: Forward> Engine<M> {
    /// Launches the step behind `flight`, if there is nothing else to do, and only then reads the tokens of `flight`.
    pub(super) fn step_ahead(&mut self, flight: Flight<M::Launched>) -> Result<bool, Broken> {
        self.stats.publish(&self.scheduler, self.kept.used_tokens());
        self.stats.time.spend(Stage::Schedule);
        let span = debug_span!("step", rows = flight.rows.len()).entered();
        self.flight = self.launch_behind(&flight);
        let (load, began) = (StepLoad::of(&flight.rows), flight.began);
        let computed = self.land(flight);
        let took = began.elapsed();
        self.stats.time.spend_on_model(self.model.take_building());
        if let Some(next) = &mut self.flight {
            next.began = Instant::now();
        }
        drop(span);
        self.deliver();
        self.scheduler.learn(load, took);
        self.check_device(computed)?;
        Ok(true)
    }

    /// Launches a step that was planned. `None` if it is to be computed in the ordinary way.
    pub(super) fn launch(
        &mut self,
        rows: &[PlannedRow],
        before: Option<&Flight<M::Launched>>,
    ) -> Option<Flight<M::Launched>> {
        let choices = rows.iter().map(|row| self.choice_if_decoded(row).map(Some)).collect::<Option<_>>()?;
        let place = |row: &PlannedRow| before.and_then(|before| before.place(row.id));
        let chosen: Vec<Option<usize>> = rows.iter().map(place).collect();
        self.assign_rows(rows);
        let step_rows = take_rows(&mut self.slots).into_iter().map(|(index, _, slot)| {
            let Slot { sequence, kv, .. } = slot;
            // Any token stands for one that the device chooses.
            let known = || &sequence.tokens[rows[index].tokens.clone()];
            let tokens = if chosen[index].is_some() { &[0] } else { known() };
            let kv = kv.get_or_insert_with(|| self.model.new_kv());
            StepRow { tokens, kv, logits: 0..1, adapter: sequence.adapter.as_ref() }
        });
        let step = StepInput { rows: step_rows.collect() };
        let before = before.map(|before| Before { step: &before.launched, chosen: chosen.clone() });
        match self.model.launch(&mut LaunchInput { step, choices, before }) {
            Ok(launched) => {
                rows.iter().for_each(|row| self.scheduler.advance(row, 1));
                Some(Flight { rows: rows.to_vec(), launched, began: Instant::now() })
            }
            Err(error) if error.is_too_early() => None,
            Err(error) => {
                // If it is not over by then, the ordinary way finds out whose fault it is.
                warn!(%error, rows = rows.len(), "a step could not be launched; it is computed in the ordinary way");
                None
            }
        }
    }

    fn launch_behind(&mut self, before: &Flight<M::Launched>) -> Option<Flight<M::Launched>> {
        let Self { model, scheduler, slots, kept, .. } = self;
        let mut rows = scheduler.plan_decodes(&mut KeptMemory { kept, slots, model })?;
        rows.retain(|row| self.goes_on(row.id, before));
        if rows.is_empty() {
            return None;
        }
        self.launch(&rows, Some(before))
    }

    /// Whether a sequence can have another token, whatever those are that were not read yet.
    fn goes_on(&self, id: SequenceId, before: &Flight<M::Launched>) -> bool {
        let unread = usize::from(before.row(id).is_some());
        self.slots.get(&id).is_some_and(|Slot { sequence, .. }| {
            sequence.tokens.len() + unread < sequence.max_len && sequence.request.credit() as usize > unread
        })
    }

    /// How the device chooses the token behind a row of a step to launch. `None` if it has to be an ordinary step.
    fn choice_if_decoded(&self, row: &PlannedRow) -> Option<Choice> {
        // Drafts are made of tokens that are known.
        let drafts = self.limits.max_draft_tokens > 0 && self.model.checks_drafts();
        let Slot { sequence, .. } = self.slots.get(&row.id)?;
        // Others may go on behind what was computed of a prompt: that has to be certain.
        let decodes = row.tokens.len() == 1 && row.tokens.start >= sequence.prompt_len;
        if drafts || !decodes { None } else { self.choice(row) }
    }

    /// How the device chooses the token behind a row. `None` if it does not.
    pub(super) fn choice(&self, row: &PlannedRow) -> Option<Choice> {
        if !self.model.launches() || row.logits.len() != 1 {
            return None;
        }
        self.slots.get(&row.id)?.sequence.choice(row.tokens.end as u64)
    }

    /// Reads the tokens of a step. False if nothing of it could be computed.
    fn land(&mut self, flight: Flight<M::Launched>) -> bool {
        let Flight { rows, launched, .. } = flight;
        match self.model.land(&launched) {
            Ok(landed) => {
                self.stats.advance();
                let tokens = landed.chosen.into_iter().map(|token| DeltaTokens::from(&[token][..]));
                self.sampled.extend(rows.iter().map(|row| row.id).zip(tokens));
                true
            }
            Err(error) => self.compute_again(rows, &error),
        }
    }

    /// A step has failed, and with it what was launched behind it. Its rows are tried one by one. False if it fails for
    /// each of them.
    fn compute_again(&mut self, mut rows: Vec<PlannedRow>, error: &ModelError) -> bool {
        let is_followed = self.flight.is_some();
        let behind = self.flight.take().map(|flight| flight.rows).unwrap_or_default();
        for row in behind.iter().chain(&rows) {
            self.scheduler.take_back(row);
            if let Some(kv) = self.slots.get_mut(&row.id).and_then(|slot| slot.kv.as_mut()) {
                self.model.truncate(kv, row.tokens.start);
            }
        }
        self.model.abandon(1 + usize::from(is_followed));
        rows.retain(|row| self.slots.contains_key(&row.id));
        if rows.is_empty() {
            // All of them have been cancelled: the failure tells nothing.
            return true;
        }
        let computed = self.run_apart(rows, error);
        computed.iter().flatten().for_each(|computed| self.sample(computed));
        computed.is_some()
    }
}
