//! Drafts of sequences: guessed before a step, computed in it, and withdrawn behind the first token that is wrong.

use std::time::{Duration, Instant};

use super::{Engine, Forward, Slot, draft_model::Asked};
use crate::schedule::{PlannedRow, StepLoad};

impl<M: Forward> Engine<M> {
    /// Guesses what follows each sequence that decodes. To be called before a step is planned. Returns what it took.
    pub(super) fn guess(&mut self) -> Duration {
        if self.limits.max_draft_tokens == 0 || !self.model.checks_drafts() {
            return Duration::ZERO;
        }
        let (began, rows) = (Instant::now(), self.scheduler.runnable());
        let Self { slots, scheduler, draft_model, sample_threads, stats, .. } = self;
        let (mut decoding, mut asked, mut can_ask) = (Vec::new(), Vec::new(), false);
        for (&id, Slot { sequence, speculation, drafting, .. }) in &mut *slots {
            if !scheduler.decodes(id) {
                continue;
            }
            // Behind the last token that it may have, nothing is needed.
            let room = sequence.max_len.saturating_sub(sequence.tokens.len() + 1);
            let most = if sequence.is_predictable() { room.min(self.limits.max_draft_tokens) } else { 0 };
            let cost = draft_model.as_ref().and_then(|model| {
                // Guesses for a step that it did not take part in are not known to be right.
                model.settle(drafting, drafting.known);
                model.cost(drafting, sequence.tokens.len(), rows)
            });
            decoding.push(id);
            match speculation.guess(&sequence.tokens, rows, most, cost) {
                0 => can_ask |= most > 0 && cost.is_some() && speculation.draft().is_empty(),
                tokens => asked.push(Asked { id, tokens }),
            }
        }
        if let Some(model) = draft_model {
            if can_ask || !asked.is_empty() {
                model.count_asked(!asked.is_empty());
            }
            model.draft(slots, scheduler, asked, sample_threads, stats);
        }
        for id in decoding {
            let guessed = slots.get(&id).map_or(0, |slot| slot.speculation.draft().len());
            scheduler.set_draft(id, guessed);
        }
        began.elapsed()
    }

    /// Appends to the sequences what is to be computed of their drafts.
    pub(super) fn append_drafts(&mut self, rows: &[PlannedRow]) {
        for row in rows {
            let Some(Slot { sequence, speculation, .. }) = self.slots.get_mut(&row.id) else { continue };
            speculation.shorten(row.tokens.end.saturating_sub(sequence.tokens.len()));
            sequence.tokens.extend_from_slice(speculation.draft());
        }
    }

    /// Takes them away again: what follows is for the sampler to say.
    pub(super) fn withdraw_drafts(&mut self, rows: &[PlannedRow]) {
        for row in rows {
            if let Some(Slot { sequence, speculation, .. }) = self.slots.get_mut(&row.id) {
                sequence.tokens.truncate(sequence.tokens.len() - speculation.draft().len());
            }
        }
    }

    /// Forgets what was computed behind the `right` ones of a row's guesses.
    pub(super) fn settle_draft(&mut self, row: &PlannedRow, right: usize) {
        let Some(Slot { speculation, kv, drafting, .. }) = self.slots.get_mut(&row.id) else { return };
        let certain = row.logits.start + 1 + right;
        if let Some(kv) = kv.as_mut().filter(|_| right < speculation.draft().len()) {
            self.model.truncate(kv, certain);
        }
        if let Some(model) = &self.draft_model {
            model.settle(drafting, certain);
        }
        speculation.learn(right);
    }

    /// Learns what a step took that had so many rows, without its guesses.
    pub(super) fn learn_step(&mut self, rows: usize, load: StepLoad, took: Duration) {
        self.scheduler.learn(load, took);
        if let Some(model) = self.draft_model.as_mut().filter(|_| load.prompt_tokens == 0) {
            model.learn_step(rows, load.decodes, took);
        }
    }
}
