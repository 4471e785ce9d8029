//! Taking memory back from sequences, so that others can go on.

use super::{Entry, Kept, Scheduler, SequenceId};

impl Scheduler {
    /// Takes memory back until every decode of this step has room for one more token.
    pub(super) fn preempt_until_decodes_fit(&mut self, kept: &mut impl Kept) {
        loop {
            let missing = -self.free_tokens(kept);
            if missing <= 0 && !self.lacks_windows() {
                return;
            }
            let evicted = if missing > 0 { kept.evict(missing.unsigned_abs()) } else { 0 };
            if evicted == 0 && !self.preempt(kept) {
                return;
            }
        }
    }

    /// Takes one sequence's memory: of those without a place the latest arrival's, else the latest of all, but
    /// never the only one's that can go on. False if there is none to take.
    pub(super) fn preempt(&mut self, kept: &mut impl Kept) -> bool {
        if self.preempt_without_place(kept, None) {
            return true;
        }
        let latest = self.placed().skip(1).last().map(|(&id, _)| id);
        latest.is_some_and(|latest| self.preempt_one(latest, kept))
    }

    /// Takes the memory of a sequence that has no place: of the latest paused one, else of the latest, if it arrived
    /// after `earlier`. False if there is none.
    pub(super) fn preempt_without_place(
        &mut self,
        kept: &mut impl Kept,
        earlier: Option<SequenceId>,
    ) -> bool {
        let mut victim = None;
        for (&id, entry) in self.entries.iter().rev() {
            if entry.placed || entry.computed == 0 {
                continue;
            }
            if entry.paused {
                victim = Some(id);
                break;
            }
            if victim.is_none() && Some(id) > earlier {
                victim = Some(id);
            }
        }
        victim.is_some_and(|id| self.preempt_one(id, kept))
    }

    fn preempt_one(&mut self, id: SequenceId, kept: &mut impl Kept) -> bool {
        self.preemptions += 1;
        self.take_memory(id, kept)
    }

    pub(super) fn take_memory(&mut self, id: SequenceId, kept: &mut impl Kept) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        kept.drop_memory(id, entry.computed);
        (entry.computed, entry.shared) = (0, 0);
        entry.placed = false;
        true
    }

    /// Sees to it that something may be held of one more sequence. False if that can't be.
    pub(super) fn make_way(&mut self, kept: &mut impl Kept) -> bool {
        let is_held = |entry: &&Entry| entry.placed || entry.computed > 0;
        while self.entries.values().filter(is_held).count() >= self.limits.max_held_seqs {
            if !self.preempt_without_place(kept, None) {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
