//! Stage 8, schedule: which sequences take part in the next step, and with which of their tokens. Pure: it knows
//! lengths, not tokens.
//!
//! ```text
//!              plan: a place and memory            last token
//!   Waiting ────────────────────────────▶ Running ───────────▶ Finished (removed)
//!      ▲  ▲                                 │  │
//!      │  └────── no credit, then credit ───┘  │   (its memory is kept until others need it)
//!      └───────────────────────────────────────┘
//!                plan: preempted, memory is short
//! ```
//!
//! Every step decodes all running sequences that are complete up to their last token, and spends the rest
//! of the token budget on chunks of prompts, so that a long prompt never stops the others. Beside decodes, chunks are
//! as short as these need it (`pace`).
//!
//! A sequence whose reader is slow gives up its place, but not its memory. Places are given in the order of
//! arrival. Memory is taken back from prefixes that nobody uses, then from sequences without a place, the latest arrival
//! first.
//!
//! What a sequence has in common with earlier ones is in the prefixes that are kept, see [`Kept`]: it begins behind that.
//! While another sequence computes such a prefix, it waits for it.

mod ahead;
mod entry;
mod kept;
mod pace;
mod plan;
mod preempt;
mod windows;

use std::{collections::BTreeMap, time::Duration};

use entry::Entry;
pub use kept::{Found, Kept};
use pace::Pace;
pub use pace::StepLoad;
pub use plan::{PlannedRow, SequenceId, StepPlan};
pub use windows::WindowLimits;

/// Limits of a step and of what is held between steps, in sequences and tokens.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most sequences in the running set.
    pub max_num_seqs: usize,
    /// Most sequences of which something is held, in the running set or not; more than the former.
    pub max_held_seqs: usize,
    /// Most tokens of a prompt's chunk.
    pub chunk_tokens: usize,
    /// Most tokens of one step; one chunk is always allowed.
    pub max_num_batched_tokens: usize,
    /// Most tokens whose keys and values are held, over all sequences and kept prefixes.
    pub kv_tokens: usize,
    /// Tokens of the unit in which sequences get memory.
    pub unit_tokens: usize,
    /// Whether prefixes are kept for later sequences.
    pub keep_prefixes: bool,
    /// Most tokens that are guessed of a sequence in a step.
    pub max_draft_tokens: usize,
    /// What may be held in layers with windows. `None`: all layers keep everything.
    pub windows: Option<WindowLimits>,
}

/// The sequences of a worker: those that wait for a place, and those that have one.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    /// In the order of arrival.
    entries: BTreeMap<SequenceId, Entry>,
    next_number: u64,
    pace: Pace,
    /// Since the last plan nobody has come, gone or been paused: who waits goes on waiting.
    settled: bool,
    preemptions: u64,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            next_number: 0,
            pace: Pace::default(),
            settled: false,
            preemptions: 0,
        }
    }

    /// Lets a sequence of `len` known tokens wait for a place, behind those that arrived before it, and names it.
    pub fn add(&mut self, len: usize, arrived: u64) -> SequenceId {
        let id = SequenceId { arrived, number: self.next_number };
        self.next_number += 1;
        self.settled = false;
        self.entries
            .insert(id, Entry { len, computed: 0, shared: 0, paused: false, placed: false, draft: 0 });
        id
    }

    /// Forgets a sequence, in whichever state it is.
    pub fn remove(&mut self, id: SequenceId) {
        self.entries.remove(&id);
        self.settled = false;
    }

    /// Says whether a sequence has to wait for credit. If so, its place is free for another.
    pub fn set_paused(&mut self, id: SequenceId, paused: bool) {
        if let Some(entry) = self.entries.get_mut(&id) {
            self.settled &= entry.paused == paused;
            entry.paused = paused;
            entry.placed &= !paused;
        }
    }

    /// How many tokens of a sequence have their keys and values held.
    pub fn computed(&self, id: SequenceId) -> usize {
        self.entries.get(&id).map_or(0, |entry| entry.computed)
    }

    /// Records that the kept prefixes hold the first `known` tokens of a sequence, and the next ones up to `len` since
    /// the sequence has left them there. True if it shares all of them: others may hold memory of their own for the same
    /// tokens.
    pub fn share(&mut self, id: SequenceId, known: usize, len: usize) -> bool {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.shared >= known) else {
            return false;
        };
        entry.shared = len.min(entry.computed);
        true
    }

    /// Whether the next step extends a sequence behind its last token.
    pub fn decodes(&self, id: SequenceId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.placed && entry.decodes())
    }

    /// Says how many tokens are guessed behind a sequence's last one. The next plan has them computed, as far as there is
    /// room.
    pub fn set_draft(&mut self, id: SequenceId, tokens: usize) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.draft = tokens;
        }
    }

    /// Records that a planned row was computed, and how many tokens were appended: if it was one that samples, at least
    /// one, and one more for each that was guessed right.
    pub fn advance(&mut self, row: &PlannedRow, appended: usize) {
        if let Some(entry) = self.entries.get_mut(&row.id) {
            // Nothing is kept behind a wrong guess.
            entry.computed = if row.samples() { row.logits.start + appended } else { row.tokens.end };
            entry.len += appended;
            // It may get a place again before anything is guessed for it.
            entry.draft = 0;
        }
    }

    /// Records what a step took, from its plan to its tokens.
    pub fn learn(&mut self, load: StepLoad, took: Duration) {
        self.pace.learn(load, took);
    }

    /// Sequences in the running set that the next step can extend.
    pub fn runnable(&self) -> usize {
        self.running().count()
    }

    /// Sequences that wait for credit.
    pub fn paused(&self) -> usize {
        self.entries.values().filter(|entry| entry.paused).count()
    }

    /// Sequences that wait for a place.
    pub fn waiting(&self) -> usize {
        self.entries.values().filter(|entry| !entry.paused && !entry.placed).count()
    }

    /// Times that a sequence had to give up its memory so that others could go on.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Tokens whose keys and values sequences hold for themselves.
    pub fn held_tokens(&self) -> usize {
        // For those with a place, the unit that may be half empty is set aside.
        let held = |entry: &Entry| match entry.own() {
            own if entry.placed => own,
            own => own.next_multiple_of(self.limits.unit_tokens.max(1)),
        };
        self.entries.values().map(held).sum()
    }

    /// Decides the next step. Empty if no sequence can go on.
    pub fn plan(&mut self, kept: &mut impl Kept) -> StepPlan {
        let mut plan = StepPlan::default();
        self.settled = true;
        loop {
            self.preempt_until_decodes_fit(kept);
            self.give_places(kept);
            self.plan_rows(&mut plan, kept);
            // Prompts can block each other when outputs have grown into the memory they counted on.
            if !plan.rows.is_empty() || self.runnable() == 0 || !self.preempt(kept) {
                return plan;
            }
        }
    }

    fn placed(&self) -> impl DoubleEndedIterator<Item = (&SequenceId, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.placed)
    }

    fn running(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|entry| entry.placed)
    }

    /// Negative if more is held than may be.
    fn free_tokens(&self, kept: &impl Kept) -> isize {
        let decodes = self.running().filter(|entry| entry.decodes()).count();
        let held = self.held_tokens() + kept.held_tokens() + decodes;
        self.limits.kv_tokens.saturating_sub(held) as isize
            - held.saturating_sub(self.limits.kv_tokens) as isize
    }

    /// Gives places to sequences that can go on, in the order of arrival. Where none is free, the latest arrival gives
    /// its own up to an earlier one, which was paused until now.
    ///
    /// A place is given only with memory for the whole sequence and one token, in addition to what prompts already
    /// begun still need: else two half-computed prompts could block each other. The same goes for layers with windows, where
    /// a sequence never needs more than its stretch.
    fn give_places(&mut self, kept: &mut impl Kept) {
        let candidates = self.entries.iter().filter(|(_, entry)| !entry.placed && !entry.paused);
        let candidates: Vec<SequenceId> =
            candidates.map(|(&id, _)| id).take(self.limits.max_num_seqs).collect();
        let mut taken = self.runnable();
        for id in candidates {
            let displaced = if taken < self.limits.max_num_seqs {
                None
            } else {
                let latest = self.placed().next_back().map(|(&latest, _)| latest);
                let Some(latest) = latest.filter(|&latest| latest > id) else { return };
                Some(latest)
            };
            let is_new = self.computed(id) == 0;
            if is_new && !self.make_way(kept) {
                return;
            }
            if is_new && !self.find_prefix(id, kept) {
                continue;
            }
            if let Some(entry) = displaced.and_then(|latest| self.entries.get_mut(&latest)) {
                entry.placed = false;
                taken -= 1;
            }
            if !self.make_room(id, kept) {
                // What it has got must not keep others from the memory, nor itself.
                if is_new && self.computed(id) > 0 {
                    self.take_memory(id, kept);
                }
                if taken > 0 {
                    return;
                }
                self.make_room(id, kept);
            }
            self.entries.get_mut(&id).into_iter().for_each(|entry| entry.placed = true);
            taken += 1;
        }
    }

    /// Lets a sequence that has nothing begin behind what is kept of it. False if it has to wait for more of that.
    fn find_prefix(&mut self, id: SequenceId, kept: &mut impl Kept) -> bool {
        let computing =
            self.placed().filter(|(_, entry)| !entry.decodes()).map(|(&id, entry)| (id, entry.computed));
        let computing: Vec<_> = computing.collect();
        let room = self.free_tokens(kept).saturating_sub_unsigned(self.promised_tokens());
        let (Found::Ready { computed, shared }, Some(entry)) =
            (kept.find(id, &computing, room.max(0).unsigned_abs()), self.entries.get_mut(&id))
        else {
            return false;
        };
        (entry.computed, entry.shared) = (computed, shared);
        true
    }

    /// Sees to memory for the rest of a sequence without a place, and one token. False if there is not enough.
    fn make_room(&mut self, id: SequenceId, kept: &mut impl Kept) -> bool {
        loop {
            let Some(entry) = self.entries.get(&id) else { return false };
            let needed = entry.len + 1 - entry.computed + self.promised_tokens();
            let missing = needed as isize - self.free_tokens(kept);
            if missing <= 0 && self.has_windows_for(entry) {
                return true;
            }
            let evicted = if missing > 0 { kept.evict(missing.unsigned_abs()) } else { 0 };
            if evicted == 0 && !self.preempt_without_place(kept, Some(id)) {
                return false;
            }
        }
    }

    /// Tokens that prompts with a place still have to compute.
    fn promised_tokens(&self) -> usize {
        self.running().filter(|entry| !entry.decodes()).map(|entry| entry.len - entry.computed).sum()
    }

    /// Decodes, then chunks of prompts that have a place, the earliest first.
    fn plan_rows(&self, plan: &mut StepPlan, kept: &mut impl Kept) {
        let mut budget = self.limits.max_num_batched_tokens;
        let mut free = self.free_tokens(kept);
        let decodes = self.running().filter(|entry| entry.decodes()).count();
        budget = budget.saturating_sub(decodes);
        for (&id, entry) in self.placed().filter(|(_, entry)| entry.decodes()) {
            let mut draft = entry.draft.min(budget);
            if let missing @ 1.. = draft as isize - free {
                free += kept.evict(missing.unsigned_abs()) as isize;
                draft = draft.min(free.max(0).unsigned_abs());
            }
            budget -= draft;
            free -= draft as isize;
            plan.rows.push(entry.row(id, entry.len + draft));
        }
        // The pace knows a step by this number: drafts count, too.
        let checked = plan.rows.iter().map(|row| row.logits.len()).sum();
        if decodes > 0 && self.pace.must_look(checked) {
            return;
        }
        let prompts_each = (self.runnable() - decodes) as f64 / decodes as f64;
        let mut seconds = self.pace.seconds_for_prompts(checked, prompts_each);
        for (&id, entry) in self.placed().filter(|(_, entry)| !entry.decodes()) {
            let first = plan.rows.len() == decodes;
            let end = entry.chunk_end(self.limits.chunk_tokens);
            let row = entry.row(id, self.end_in_time(entry, end, seconds));
            let tokens = row.tokens.len();
            if let missing @ 1.. = tokens as isize - free {
                free += kept.evict(missing.unsigned_abs()) as isize;
            }
            let late = seconds.is_some_and(|seconds| seconds <= 0.0);
            // One chunk is always allowed by the budgets of tokens and time.
            if ((tokens > budget || late) && !first) || tokens as isize > free || self.lacks_windows() {
                return;
            }
            budget = budget.saturating_sub(tokens);
            free -= tokens as isize;
            seconds = seconds.map(|seconds| seconds - self.pace.seconds(tokens, row.tokens.start));
            plan.rows.push(row);
        }
    }

    /// Where a chunk ends that would otherwise end at `end`, if there are so many seconds for it.
    fn end_in_time(&self, entry: &Entry, end: usize, seconds: Option<f64>) -> usize {
        seconds.map_or(end, |seconds| end.min(entry.computed + self.pace.tokens(seconds, entry.computed)))
    }
}

#[cfg(test)]
mod tests;
