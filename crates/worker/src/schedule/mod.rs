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
//! of the token budget on chunks of prompts, so that a long prompt never stops the others. Chunks are always
//! cut at the same places, multiples of [`Limits::chunk_tokens`], whatever else is in the batch: a sequence's
//! arithmetic must not depend on the batch's composition.
//!
//! A sequence whose reader is slow gives up its place, but not its memory. Places are given in the order of
//! arrival. Memory is taken back from those without a place first, the latest arrival first.

mod plan;

use std::collections::BTreeMap;

pub use plan::{PlannedRow, SequenceId, StepPlan};

/// Limits of a step and of what is held between steps, in sequences and tokens.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most sequences in the running set.
    pub max_num_seqs: usize,
    /// Length of a prompt's chunk.
    pub chunk_tokens: usize,
    /// Most tokens of one step; one chunk is always allowed.
    pub max_num_batched_tokens: usize,
    /// Most tokens whose keys and values are held, over all sequences.
    pub kv_tokens: usize,
}

/// What the scheduler knows of a sequence.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Tokens of prompt and output so far.
    len: usize,
    /// How many of them have their keys and values held.
    computed: usize,
    /// It has no credit, because its reader is slow: no step may extend it.
    paused: bool,
    /// It is one of the running set.
    placed: bool,
}

/// The sequences of a worker: those that wait for a place, and those that have one.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    /// In the order of arrival.
    entries: BTreeMap<SequenceId, Entry>,
    next_id: u64,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(limits: Limits) -> Self {
        Self { limits, entries: BTreeMap::new(), next_id: 0 }
    }

    /// Lets a sequence of `len` known tokens wait for a place, and names it.
    pub fn add(&mut self, len: usize) -> SequenceId {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.entries.insert(id, Entry { len, computed: 0, paused: false, placed: false });
        id
    }

    /// Forgets a sequence, in whichever state it is.
    pub fn remove(&mut self, id: SequenceId) {
        self.entries.remove(&id);
    }

    /// Says whether a sequence has to wait for credit. If so, its place is free for another.
    pub fn set_paused(&mut self, id: SequenceId, paused: bool) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.paused = paused;
            entry.placed &= !paused;
        }
    }

    /// Records that a planned row was computed, and that a token was appended if it was one that samples.
    pub fn advance(&mut self, row: &PlannedRow) {
        if let Some(entry) = self.entries.get_mut(&row.id) {
            entry.computed = row.tokens.end;
            entry.len += usize::from(row.samples());
        }
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

    /// Tokens whose keys and values are held.
    pub fn held_tokens(&self) -> usize {
        self.entries.values().map(|entry| entry.computed).sum()
    }

    /// Decides the next step. Empty if no sequence can go on.
    pub fn plan(&mut self) -> StepPlan {
        let mut plan = StepPlan::default();
        loop {
            self.preempt_until_decodes_fit(&mut plan);
            self.give_places(&mut plan);
            self.plan_rows(&mut plan);
            // Prompts can block each other when outputs have grown into the memory they counted on.
            if !plan.rows.is_empty() || self.runnable() == 0 || !self.preempt(&mut plan) {
                return plan;
            }
        }
    }

    fn placed(&self) -> impl Iterator<Item = (&SequenceId, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.placed)
    }

    fn running(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|entry| entry.placed)
    }

    fn free_tokens(&self) -> usize {
        let decodes = self.running().filter(|entry| entry.decodes()).count();
        self.limits.kv_tokens.saturating_sub(self.held_tokens() + decodes)
    }

    /// Takes memory back until every decode of this step has room for one more token.
    fn preempt_until_decodes_fit(&mut self, plan: &mut StepPlan) {
        loop {
            let decodes = self.running().filter(|entry| entry.decodes()).count();
            if self.held_tokens() + decodes <= self.limits.kv_tokens || !self.preempt(plan) {
                return;
            }
        }
    }

    /// Takes one sequence's memory: of those without a place the latest arrival's, else the latest of all, but
    /// never the only one's that can go on. False if there is none to take.
    fn preempt(&mut self, plan: &mut StepPlan) -> bool {
        if self.preempt_without_place(plan, None) {
            return true;
        }
        let mut running = self.entries.iter().filter(|(_, entry)| entry.placed).map(|(&id, _)| id);
        match (running.next(), running.next_back()) {
            (Some(_), Some(latest)) => self.take_memory(latest, plan),
            _ => false,
        }
    }

    /// Takes the memory of a sequence that has no place: of the latest paused one, else of the latest, if it arrived
    /// after `earlier`. False if there is none.
    fn preempt_without_place(&mut self, plan: &mut StepPlan, earlier: Option<SequenceId>) -> bool {
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
        victim.is_some_and(|id| self.take_memory(id, plan))
    }

    fn take_memory(&mut self, id: SequenceId, plan: &mut StepPlan) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.computed = 0;
        entry.placed = false;
        plan.preempted.push(id);
        true
    }

    /// Gives places to sequences that can go on, in the order of arrival. Where none is free, the latest arrival gives
    /// its own up to an earlier one, which was paused until now.
    ///
    /// A place is given only with memory for the whole sequence and one token, in addition to what prompts already
    /// begun still need: else two half-computed prompts could block each other.
    fn give_places(&mut self, plan: &mut StepPlan) {
        let candidates = self.entries.iter().filter(|(_, entry)| !entry.placed && !entry.paused);
        let candidates: Vec<SequenceId> =
            candidates.map(|(&id, _)| id).take(self.limits.max_num_seqs).collect();
        let mut taken = self.runnable();
        let (mut free, mut promised) = (self.free_tokens(), self.promised_tokens());
        for id in candidates {
            if taken >= self.limits.max_num_seqs {
                let latest =
                    self.entries.iter().rev().find(|(_, entry)| entry.placed).map(|(&latest, _)| latest);
                let Some(latest) = latest.filter(|&latest| latest > id) else { return };
                self.entries.get_mut(&latest).into_iter().for_each(|entry| entry.placed = false);
                taken -= 1;
                (free, promised) = (self.free_tokens(), self.promised_tokens());
            }
            let Some(&entry) = self.entries.get(&id) else { continue };
            let needed = entry.len + 1 - entry.computed;
            while needed + promised > free && self.preempt_without_place(plan, Some(id)) {
                free = self.free_tokens();
            }
            if needed + promised > free && taken > 0 {
                return;
            }
            self.entries.get_mut(&id).into_iter().for_each(|entry| entry.placed = true);
            taken += 1;
            if entry.decodes() {
                free = free.saturating_sub(1);
            } else {
                promised += entry.len - entry.computed;
            }
        }
    }

    /// Tokens that prompts with a place still have to compute.
    fn promised_tokens(&self) -> usize {
        self.running().filter(|entry| !entry.decodes()).map(|entry| entry.len - entry.computed).sum()
    }

    /// Decodes, then chunks of prompts that have a place, the earliest first.
    fn plan_rows(&self, plan: &mut StepPlan) {
        let mut budget = self.limits.max_num_batched_tokens;
        let mut free = self.free_tokens();
        for (&id, entry) in self.placed().filter(|(_, entry)| entry.decodes()) {
            plan.rows.push(entry.row(id, entry.len));
            budget = budget.saturating_sub(1);
        }
        let decodes = plan.rows.len();
        for (&id, entry) in self.placed().filter(|(_, entry)| !entry.decodes()) {
            let row = entry.row(id, entry.chunk_end(self.limits.chunk_tokens));
            let tokens = row.tokens.len();
            // One chunk is always allowed by the token budget.
            if (tokens > budget && plan.rows.len() > decodes) || tokens > free {
                return;
            }
            budget = budget.saturating_sub(tokens);
            free -= tokens;
            plan.rows.push(row);
        }
    }
}

impl Entry {
    /// Whether the next step computes just its last token.
    fn decodes(&self) -> bool {
        self.computed > 0 && self.computed + 1 == self.len
    }

    fn chunk_end(&self, chunk: usize) -> usize {
        self.len.min((self.computed / chunk + 1) * chunk)
    }

    fn row(&self, id: SequenceId, end: usize) -> PlannedRow {
        // The next token is chosen from the logits after the last of all.
        let logits = if end == self.len { end - 1..end } else { end..end };
        PlannedRow { id, tokens: self.computed..end, logits }
    }
}

#[cfg(test)]
mod tests;
