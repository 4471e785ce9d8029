//! Which sequences take part in the next step, and with how many tokens. Pure: it knows lengths, not tokens.
//!
//! ```text
//!              plan: a place and memory            last token
//!   Waiting ────────────────────────────▶ Running ───────────▶ Finished (removed)
//!      ▲                                    │
//!      └────────────────────────────────────┘
//!            plan: preempted, memory is short
//! ```
//!
//! Every step decodes all running sequences that are complete up to their last token, and spends the rest
//! of the token budget on chunks of prompts, so that a long prompt never stops the others. Chunks are always
//! cut at the same places, multiples of [`Limits::chunk_tokens`], whatever else is in the batch: a sequence's
//! arithmetic must not depend on its company.

use std::collections::VecDeque;

use protocol::ids::RequestId;

/// Bounds of a step and of what is held between steps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most sequences in the running set.
    pub max_running: usize,
    /// Length of a prompt's chunk.
    pub chunk_tokens: usize,
    /// Most tokens of one step; at least one chunk passes in any case.
    pub step_tokens: usize,
    /// Most tokens whose keys and values are held, over all sequences.
    pub kv_tokens: usize,
}

/// What the scheduler knows of a sequence.
#[derive(Clone, Debug)]
struct Entry {
    id: RequestId,
    /// Tokens of prompt and output so far.
    len: usize,
    /// How many of them have their keys and values held.
    computed: usize,
    /// Its reader is slow: no step may extend it.
    paused: bool,
}

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRow {
    /// Whose row it is.
    pub id: RequestId,
    /// Index of the first token to compute.
    pub start: usize,
    /// Index after the last token to compute.
    pub end: usize,
    /// Whether this completes what is known of the sequence, so that the next token can be chosen.
    pub samples: bool,
}

/// What one engine step runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// Sequences that lose their keys and values before the step, and wait again.
    pub preempted: Vec<RequestId>,
    /// The rows, decodes first.
    pub rows: Vec<PlannedRow>,
}

/// The sequences of a worker: those that wait for a place, and those that have one.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    waiting: VecDeque<Entry>,
    /// In order of arrival, so that the last is the one to preempt.
    running: Vec<Entry>,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(limits: Limits) -> Self {
        Self { limits, waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Lets a sequence of `len` known tokens wait for a place.
    pub fn add(&mut self, id: RequestId, len: usize) {
        self.waiting.push_back(Entry { id, len, computed: 0, paused: false });
    }

    /// Forgets a sequence, in whichever state it is.
    pub fn remove(&mut self, id: RequestId) {
        self.waiting.retain(|entry| entry.id != id);
        self.running.retain(|entry| entry.id != id);
    }

    /// Says whether a sequence's reader keeps it from going on.
    pub fn set_paused(&mut self, id: RequestId, paused: bool) {
        if let Some(entry) = self.running.iter_mut().chain(&mut self.waiting).find(|entry| entry.id == id) {
            entry.paused = paused;
        }
    }

    /// Records that a planned row was computed, and that a token was appended if it was one that samples.
    pub fn advance(&mut self, row: &PlannedRow) {
        if let Some(entry) = self.running.iter_mut().find(|entry| entry.id == row.id) {
            entry.computed = row.end;
            entry.len += usize::from(row.samples);
        }
    }

    /// Sequences in the running set that the next step can extend.
    pub fn runnable(&self) -> usize {
        self.running.iter().filter(|entry| !entry.paused).count()
    }

    /// Sequences that wait for credit, whether they hold a place or not.
    pub fn paused(&self) -> usize {
        self.running.iter().chain(&self.waiting).filter(|entry| entry.paused).count()
    }

    /// Sequences that wait for a place.
    pub fn waiting(&self) -> usize {
        self.waiting.iter().filter(|entry| !entry.paused).count()
    }

    /// Tokens whose keys and values are held.
    pub fn held_tokens(&self) -> usize {
        self.running.iter().map(|entry| entry.computed).sum()
    }

    /// Decides the next step. Empty if no sequence can go on.
    pub fn plan(&mut self) -> StepPlan {
        let mut plan = StepPlan::default();
        self.preempt_until_decodes_fit(&mut plan);
        loop {
            self.plan_rows(&mut plan);
            // Prompts can block each other when outputs have grown into the memory they counted on.
            if !plan.rows.is_empty() || !self.anyone_can_go_on() || !self.preempt(&mut plan) {
                return plan;
            }
        }
    }

    fn plan_rows(&mut self, plan: &mut StepPlan) {
        let mut budget = self.limits.step_tokens;
        self.plan_decodes(plan, &mut budget);
        let mut free = self.limits.kv_tokens.saturating_sub(self.held_tokens() + plan.rows.len());
        self.plan_chunks(plan, &mut budget, &mut free);
        self.admit(plan, &mut budget, free);
    }

    /// Takes memory back until every decode of this step has room for one more token.
    fn preempt_until_decodes_fit(&mut self, plan: &mut StepPlan) {
        loop {
            let decodes = self.running.iter().filter(|entry| entry.decodes()).count();
            if self.held_tokens() + decodes <= self.limits.kv_tokens || !self.preempt(plan) {
                return;
            }
        }
    }

    /// Takes one sequence's memory: of those whose readers are slow the latest, else the latest of all, but
    /// never the only one's that can go on. False if there is none to take.
    fn preempt(&mut self, plan: &mut StepPlan) -> bool {
        let paused = self.running.iter().rposition(|entry| entry.paused);
        let latest = if self.running.len() > 1 { self.running.len().checked_sub(1) } else { None };
        let Some(victim) = paused.or(latest) else { return false };
        let entry = self.running.remove(victim);
        plan.preempted.push(entry.id);
        self.waiting.push_front(Entry { computed: 0, ..entry });
        true
    }

    fn anyone_can_go_on(&self) -> bool {
        self.running.iter().chain(&self.waiting).any(|entry| !entry.paused)
    }

    fn plan_decodes(&self, plan: &mut StepPlan, budget: &mut usize) {
        for entry in self.running.iter().filter(|entry| entry.decodes()) {
            plan.rows.push(entry.row(entry.len));
            *budget = budget.saturating_sub(1);
        }
    }

    /// Continues prompts that have been begun, the earliest first.
    fn plan_chunks(&self, plan: &mut StepPlan, budget: &mut usize, free: &mut usize) {
        for entry in self.running.iter().filter(|entry| entry.prefills()) {
            let row = entry.row(entry.chunk_end(self.limits.chunk_tokens));
            if !takes(row, plan, budget, free) {
                return;
            }
        }
    }

    /// Gives places to waiting sequences, in order but for the paused ones, as long as their first chunk
    /// fits the step.
    fn admit(&mut self, plan: &mut StepPlan, budget: &mut usize, mut free: usize) {
        let promised: usize = self.running.iter().filter(|e| e.prefills()).map(|e| e.len - e.computed).sum();
        let chunks_planned: usize =
            plan.rows.iter().filter(|row| row.end - row.start > 1).map(|row| row.end - row.start).sum();
        let mut reserve = promised.saturating_sub(chunks_planned);
        while self.running.len() < self.limits.max_running {
            let Some(next) = self.waiting.iter().position(|entry| !entry.paused) else { return };
            let entry = &self.waiting[next];
            let row = entry.row(entry.chunk_end(self.limits.chunk_tokens));
            // A place is given only with memory for the whole prompt and one token, beside what prompts
            // already begun still need: else two half-computed prompts could block each other.
            let alone = self.running.is_empty();
            if !alone && entry.len + 1 + reserve > free {
                return;
            }
            if !takes(row, plan, budget, &mut free) {
                return;
            }
            reserve += entry.len - row.end;
            self.running.extend(self.waiting.remove(next));
        }
    }
}

impl Entry {
    /// Whether the next step computes just its last token.
    fn decodes(&self) -> bool {
        !self.paused && self.computed > 0 && self.computed + 1 == self.len
    }

    /// Whether more than its last token is to be computed.
    fn prefills(&self) -> bool {
        !self.paused && !self.decodes()
    }

    fn chunk_end(&self, chunk: usize) -> usize {
        self.len.min((self.computed / chunk + 1) * chunk)
    }

    fn row(&self, end: usize) -> PlannedRow {
        PlannedRow { id: self.id, start: self.computed, end, samples: end == self.len }
    }
}

/// Adds a chunk to the plan if the step has room for it. One chunk always passes the token budget.
fn takes(row: PlannedRow, plan: &mut StepPlan, budget: &mut usize, free: &mut usize) -> bool {
    let tokens = row.end - row.start;
    let has_chunk = plan.rows.last().is_some_and(|last| last.end - last.start > 1);
    if (tokens > *budget && has_chunk) || tokens > *free {
        return false;
    }
    *budget = budget.saturating_sub(tokens);
    *free -= tokens;
    plan.rows.push(row);
    true
}

#[cfg(test)]
mod tests;
