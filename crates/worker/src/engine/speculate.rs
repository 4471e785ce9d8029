//! Drafts of sequences: guessed before a step, computed in it, and withdrawn behind the first token that is wrong.

use super::{Engine, Forward, Slot};
use crate::schedule::PlannedRow;

impl<M: Forward> Engine<M> {
    /// Guesses what follows each sequence that decodes. To be called before a step is planned.
    pub(super) fn guess(&mut self) {
        if self.limits.max_draft_tokens == 0 || !self.model.checks_drafts() {
            return;
        }
        let rows = self.scheduler.runnable();
        for (&id, Slot { sequence, speculation, .. }) in &mut self.slots {
            if !self.scheduler.decodes(id) {
                continue;
            }
            // Behind the last token that it may have, nothing is needed.
            let room = sequence.max_len.saturating_sub(sequence.tokens.len() + 1);
            let most = if sequence.is_predictable() { room.min(self.limits.max_draft_tokens) } else { 0 };
            self.scheduler.set_draft(id, speculation.guess(&sequence.tokens, rows, most));
        }
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
        let Some(Slot { speculation, kv, .. }) = self.slots.get_mut(&row.id) else { return };
        if let Some(kv) = kv.as_mut().filter(|_| right < speculation.draft().len()) {
            self.model.truncate(kv, row.logits.start + 1 + right);
        }
        speculation.learn(right);
    }
}
