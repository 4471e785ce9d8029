//! The step behind one whose tokens are not known yet: each of its rows gets one, so its length is.

use super::{Kept, PlannedRow, Scheduler};

impl Scheduler {
    /// The rows of the next step, if it does nothing but decode, and nobody gets or loses a place for it. `None` if that
    /// takes a whole [`plan`](Self::plan). A step that is not read yet counts: each of its rows was
    /// [recorded](Self::advance) with one token.
    pub fn plan_decodes(&self, kept: &mut impl Kept) -> Option<Vec<PlannedRow>> {
        let somebody_may_come = self.waiting() > 0 && !self.settled;
        if somebody_may_come
            || self.lacks_windows()
            || self.running().any(|entry| !entry.decodes() || entry.draft > 0)
        {
            return None;
        }
        while let missing @ 1.. = -self.free_tokens(kept) {
            if kept.evict(missing.unsigned_abs()) == 0 {
                return None;
            }
        }
        Some(self.placed().map(|(&id, entry)| entry.row(id, entry.len)).collect())
    }

    /// A row that was recorded with one token is not computed after all. The last one comes first.
    pub fn take_back(&mut self, row: &PlannedRow) {
        if let Some(entry) = self.entries.get_mut(&row.id) {
            (entry.computed, entry.len) = (row.tokens.start, row.tokens.end);
        }
    }

    /// Something has happened that may let sequences go on that wait.
    pub fn look_again(&mut self) {
        self.settled = false;
    }
}

#[cfg(test)]
mod tests;
