//! A small model that drafts tokens for the one that is served: the second source of guesses, beside what the sequences
//! repeat.
//!
//! Before a step is planned, all sequences that ask for a draft run through the draft model together: what it has not seen
//! of them yet, then token after token. A long text that it has not seen is computed over several steps, so that
//! nobody waits for it. Each guess is drawn as the sampler would draw the token in its place, so that two models that agree
//! on what is likely also agree on the token.
//!
//! Whatever goes wrong here costs speed alone: a sequence goes on without drafts.

use std::{
    collections::HashMap,
    ops::Range,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{Forward, Slot, drafting::Drafting, stats::EngineStats, step::take_rows};
use crate::{
    cache::{Prefixes, Variant},
    model::{ModelError, StepInput, StepRow},
    sample::{GuessRow, SampleThreads},
    schedule::{Limits, Scheduler, SequenceId},
    speculate::Costs,
};

/// Passes that may fail in a row before the draft model is not asked any more.
const FAILED_PASSES: u32 = 5;

/// A text of so many tokens is not a long one.
const FEW_TOKENS: usize = 16;

/// Tokens that an answer is expected to have left, beside as many as it has: few say beforehand how long they will be.
const FEW_TO_COME: usize = 128;

/// It computes without adapters, whatever its sequences have.
const ANY: Variant = Variant(None);

/// The draft model of an engine.
pub struct DraftModel<M: Forward> {
    model: M,
    /// What it has of sequences that have ended, or share their beginning with others.
    kept: Option<Prefixes<M::Kv>>,
    size: DraftSize,
    limits: Limits,
    costs: Costs,
    /// Passes that have failed in a row.
    failures: u32,
    /// A failure was logged.
    warned: bool,
}

/// What a draft model can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftSize {
    /// Most tokens whose keys and values it holds, of all sequences.
    pub kv_tokens: usize,
    /// Most tokens of a sequence.
    pub context_length: usize,
    /// Token ids below this are those of both models.
    pub vocab_size: usize,
}

/// What the draft model is asked for before one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) id: SequenceId,
    /// Tokens to guess.
    pub(super) tokens: usize,
}

/// A sequence's part of a pass.
#[derive(Debug)]
struct DraftRow {
    id: SequenceId,
    /// The tokens to compute, counted from the sequence's first. Those behind its last one are guesses.
    tokens: Range<usize>,
    /// Tokens that are still to be guessed; 0: there is more to compute before.
    wanted: usize,
}

/// The memory of a draft model, while it is shared out.
#[derive(Debug)]
struct Room {
    /// Tokens of it that sequences have or may need.
    used: usize,
    /// A sequence that had nothing got nothing; nor does a later one.
    is_full: bool,
}

impl<M: Forward> DraftModel<M> {
    /// One that nobody has asked yet, for an engine with these limits.
    pub fn new(model: M, size: DraftSize, limits: Limits, costs: Costs) -> Self {
        let kept = limits.keep_prefixes.then(|| Prefixes::new(model.shared_block()));
        Self { model, kept, size, limits, costs, failures: 0, warned: false }
    }

    /// What a guess for this sequence of `len` tokens costs in a step of so many rows; `None` if there is none to be had.
    pub(super) fn cost(&self, drafting: &Drafting<M::Kv>, len: usize, rows: usize) -> Option<f64> {
        let usable = self.failures < FAILED_PASSES && !drafting.off && len >= drafting.wait_until;
        usable.then(|| self.costs.of_token(rows))
    }

    /// Records whether a draft was asked for in a step in which one could have been.
    pub(super) fn count_asked(&mut self, asked: bool) {
        self.costs.count_asked(asked);
    }

    /// Guesses what was asked for, as far as there is time and memory.
    pub(super) fn draft(
        &mut self,
        slots: &mut HashMap<SequenceId, Slot<M::Kv>>,
        scheduler: &Scheduler,
        mut asked: Vec<Asked>,
        threads: &mut SampleThreads,
        stats: &EngineStats,
    ) {
        asked.sort_unstable_by_key(|asked| asked.id);
        let mut pass = self.begin(slots, scheduler, &asked);
        while !pass.is_empty() {
            let began = Instant::now();
            match self.compute(slots, &pass, threads) {
                Ok(()) => {
                    self.failures = 0;
                    let tokens = pass.iter().map(|row| row.tokens.len()).sum();
                    self.costs.learn_pass(pass.len(), tokens, began.elapsed());
                    self.keep_prompts(slots, &pass);
                    pass.retain_mut(DraftRow::go_on);
                }
                Err(error) => self.fail(slots, &mut pass, &error),
            }
            stats.advance();
        }
    }

    /// Forgets what was computed behind the first `len` tokens of a sequence, which are certain.
    pub(super) fn settle(&self, drafting: &mut Drafting<M::Kv>, len: usize) {
        let Drafting { kv: Some(kv), len: computed, known, .. } = drafting else { return };
        if *computed > len {
            self.model.truncate(kv, len);
            *computed = len;
        }
        *known = *computed;
    }

    /// Keeps what it has of a sequence for later ones that begin alike.
    pub(super) fn keep(&mut self, slot: &Slot<M::Kv>) {
        let Slot { sequence, drafting, .. } = slot;
        if let (Some(kept), Some(kv)) = (&mut self.kept, &drafting.kv) {
            kept.insert(ANY, &sequence.tokens[..drafting.known.min(sequence.tokens.len())], kv);
        }
    }

    /// Keeps the prompts of which the last tokens were computed.
    fn keep_prompts(&mut self, slots: &HashMap<SequenceId, Slot<M::Kv>>, pass: &[DraftRow]) {
        for DraftRow { id, tokens, wanted } in pass {
            let slot = slots.get(id).filter(|slot| *wanted > 0 && tokens.start < slot.sequence.prompt_len);
            slot.into_iter().for_each(|slot| self.keep(slot));
        }
    }

    /// Begins a sequence behind what is kept of it.
    fn inherit(&mut self, slot: &mut Slot<M::Kv>) {
        let (Some(kept), Some((_, tokens))) = (&mut self.kept, slot.sequence.tokens.split_last()) else {
            return;
        };
        // Less than a block is not worth a copy.
        let found = kept.find(ANY, tokens).filter(|found| kept.whole_blocks(found.len) > 0);
        if let Some((found, kv)) = found.and_then(|found| Some((found, kept.resume(found)?))) {
            slot.drafting =
                Drafting { kv: Some(kv), len: found.len, known: found.len, ..Drafting::default() };
        }
    }

    /// Learns what a step of the served model took that had so many sequences, all of which decode, and so many tokens.
    pub(super) fn learn_step(&mut self, rows: usize, tokens: usize, took: Duration) {
        self.costs.learn_step(rows, tokens, took);
    }

    /// The first pass: whatever is missing of the sequences, or a part of it.
    fn begin(
        &mut self,
        slots: &mut HashMap<SequenceId, Slot<M::Kv>>,
        scheduler: &Scheduler,
        asked: &[Asked],
    ) -> Vec<DraftRow> {
        let (mut pass, rows) = (Vec::new(), scheduler.runnable());
        let mut budget = self.costs.prompt_tokens(rows, self.limits.chunk_tokens);
        let held = slots.values().filter(|slot| slot.drafting.kv.is_some());
        let mut room = Room { used: held.map(|slot| self.units(slot)).sum(), is_full: false };
        for &Asked { id, tokens } in asked {
            let Some(slot) = slots.get_mut(&id) else { continue };
            let is_new = slot.drafting.kv.is_none();
            if is_new && room.is_full {
                slot.drafting.wait(slot.sequence.tokens.len());
                continue;
            }
            if is_new {
                self.inherit(slot);
            }
            let Some(row) = self.row(slot, id, tokens, rows) else {
                if is_new {
                    slot.drafting.wait(slot.sequence.tokens.len());
                }
                continue;
            };
            slot.drafting.kv.get_or_insert_with(|| self.model.new_kv());
            if !self.has_room(slots, scheduler, id, is_new, &mut room) {
                continue;
            }
            let missing = row.tokens.len();
            let part = if missing <= self.few_tokens() {
                missing
            } else {
                let part = missing.min(budget);
                budget -= part;
                part
            };
            if let (Some(row), Some(slot)) = (row.shortened(part), slots.get_mut(&id)) {
                if row.wanted > 0 {
                    slot.speculation.begin_model();
                }
                pass.push(row);
            }
        }
        pass
    }

    /// Tokens that a sequence is behind at most when the draft model has seen all of it but its latest step. More are a
    /// long text.
    fn few_tokens(&self) -> usize {
        FEW_TOKENS.max(self.limits.max_draft_tokens + 1)
    }

    /// What is missing of a sequence for so many guesses. `None` if it is not worth it.
    fn row(&self, slot: &mut Slot<M::Kv>, id: SequenceId, wanted: usize, rows: usize) -> Option<DraftRow> {
        let Slot { sequence, drafting, .. } = slot;
        let len = sequence.tokens.len();
        // The logits after the last token say what follows.
        self.settle(drafting, drafting.known.min(len.saturating_sub(1)));
        let missing = &sequence.tokens[drafting.len..];
        let wanted = wanted.min((self.size.context_length + 1).saturating_sub(len));
        if wanted == 0 || missing.iter().any(|&token| token as usize >= self.size.vocab_size) {
            drafting.turn_off();
            return None;
        }
        let (generated, room) = (len - sequence.prompt_len.min(len), sequence.max_len.saturating_sub(len));
        let to_come = room.min(FEW_TO_COME + generated);
        if missing.len() > self.few_tokens() && !self.costs.is_worth(missing.len(), to_come, rows) {
            return None;
        }
        Some(DraftRow { id, tokens: drafting.len..len, wanted })
    }

    /// Sees to memory for a sequence. What is kept goes first. One that has nothing yet gets it from those that can't go on
    /// now. When sequences have grown beyond the memory, the latest of them lose theirs.
    fn has_room(
        &mut self,
        slots: &mut HashMap<SequenceId, Slot<M::Kv>>,
        scheduler: &Scheduler,
        id: SequenceId,
        is_new: bool,
        room: &mut Room,
    ) -> bool {
        if is_new {
            room.used += slots.get(&id).map_or(0, |slot| self.units(slot));
        }
        loop {
            let kept = self.kept.as_ref().map_or(0, Prefixes::held_tokens);
            let missing = (room.used + kept).saturating_sub(self.size.kv_tokens);
            if missing == 0 {
                return true;
            }
            if self.kept.as_mut().is_some_and(|kept| kept.evict(missing) > 0) {
                continue;
            }
            let held = slots.iter().filter(|(_, slot)| slot.drafting.kv.is_some());
            let victim = held.map(|(&other, _)| (!scheduler.decodes(other), other)).max();
            let lost = victim.filter(|(idle, _)| *idle || !is_new).map_or(id, |(_, other)| other);
            if let Some(slot) = slots.get_mut(&lost) {
                room.used -= self.units(slot);
                slot.drafting.clear();
                if lost == id {
                    slot.drafting.wait(slot.sequence.tokens.len());
                }
            }
            if lost == id {
                room.is_full = true;
                return false;
            }
        }
    }

    /// Tokens of memory that a sequence may need before it is looked at again.
    fn units(&self, slot: &Slot<M::Kv>) -> usize {
        let most = slot.sequence.tokens.len() + self.limits.max_draft_tokens;
        most.min(slot.sequence.max_len).next_multiple_of(self.limits.unit_tokens.max(1))
    }

    /// Runs the draft model over the rows, and draws a guess for each of them of which nothing is missing.
    fn compute(
        &mut self,
        slots: &mut HashMap<SequenceId, Slot<M::Kv>>,
        pass: &[DraftRow],
        threads: &mut SampleThreads,
    ) -> Result<(), ModelError> {
        for (index, row) in pass.iter().enumerate() {
            slots.get_mut(&row.id).into_iter().for_each(|slot| slot.row = Some(index));
        }
        let mut taken = take_rows(slots);
        let rows = taken.iter_mut().map(|(index, _, slot)| {
            let Slot { sequence, speculation, drafting, .. } = &mut **slot;
            let row = &pass[*index];
            let tokens = row.of(&sequence.tokens, speculation.draft());
            let kv = drafting.kv.get_or_insert_with(|| self.model.new_kv());
            if row.wanted > 0 { StepRow::last_logits(tokens, kv) } else { StepRow::no_logits(tokens, kv) }
        });
        let logits = self.model.forward(&mut StepInput { rows: rows.collect() })?;
        for (index, _, Slot { sequence, drafting, .. }) in &mut taken {
            let end = pass[*index].tokens.end;
            (drafting.len, drafting.known) = (end, end.min(sequence.tokens.len()));
        }
        let Some(logits) = logits else { return Ok(()) };
        taken.retain(|(index, ..)| pass[*index].wanted > 0);
        let rows = taken.iter().enumerate().map(|(row, (_, _, Slot { sequence, speculation, .. }))| {
            let logits = logits.row(row);
            GuessRow {
                sampler: &sequence.sampler,
                logits: &logits[..logits.len().min(self.size.vocab_size)],
                position: (sequence.tokens.len() + speculation.draft().len()) as u64,
            }
        });
        let guesses = threads.guess(rows.collect());
        for ((_, _, slot), guess) in taken.into_iter().zip(guesses) {
            slot.speculation.push(guess);
        }
        Ok(())
    }

    /// A pass has failed: what it was about goes on without drafts.
    fn fail(
        &mut self,
        slots: &mut HashMap<SequenceId, Slot<M::Kv>>,
        pass: &mut Vec<DraftRow>,
        error: &ModelError,
    ) {
        if !std::mem::replace(&mut self.warned, true) {
            warn!(%error, "the draft model failed; sequences go on without it, and this is not said again");
        }
        // A row that was refused is the only one to blame.
        let refused = error.row().filter(|&row| row < pass.len());
        if refused.is_none() {
            self.failures += 1;
        }
        let failed = match refused {
            Some(row) => vec![pass.remove(row)],
            None => std::mem::take(pass),
        };
        for DraftRow { id, .. } in failed {
            slots.get_mut(&id).into_iter().for_each(|slot| slot.drafting.turn_off());
        }
        if self.failures >= FAILED_PASSES {
            warn!("{FAILED_PASSES} passes of the draft model have failed in a row: it is not used any more");
            slots.values_mut().for_each(|slot| slot.drafting.turn_off());
            self.kept = None;
            pass.clear();
        }
    }
}

impl DraftRow {
    /// The first `most` tokens of it; `None` if that is nothing.
    fn shortened(mut self, most: usize) -> Option<Self> {
        if most < self.tokens.len() {
            (self.tokens.end, self.wanted) = (self.tokens.start + most, 0);
        }
        (!self.tokens.is_empty()).then_some(self)
    }

    /// Its tokens, of a sequence's and the guesses behind them.
    fn of<'a>(&self, tokens: &'a [u32], draft: &'a [u32]) -> &'a [u32] {
        match self.tokens.start.checked_sub(tokens.len()) {
            None => &tokens[self.tokens.clone()],
            Some(start) => &draft[start..start + self.tokens.len()],
        }
    }

    /// Whether there is more to guess: behind its latest guess.
    fn go_on(&mut self) -> bool {
        self.tokens = self.tokens.end..self.tokens.end + 1;
        self.wanted = self.wanted.saturating_sub(1);
        self.wanted > 0
    }
}
