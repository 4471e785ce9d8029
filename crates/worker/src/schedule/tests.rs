#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    max_held_seqs: usize::MAX,
    max_num_seqs: 4,
    chunk_tokens: 8,
    max_num_batched_tokens: 16,
    kv_tokens: 100,
    unit_tokens: 1,
    keep_prefixes: true,
    max_draft_tokens: 0,
    windows: None,
};

/// What a test says is kept.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    /// Of each sequence, what is kept. What does not fit the rest of the memory is not there any more.
    pub(super) found: BTreeMap<SequenceId, Found>,
    pub(super) held: usize,
    /// Sequences that have lost their memory since this was last looked at.
    pub(super) preempted: Vec<SequenceId>,
}

impl Kept for Prefixes {
    fn held_tokens(&self) -> usize {
        self.held
    }

    fn evict(&mut self, tokens: usize) -> usize {
        let gone = self.held.min(tokens);
        self.held -= gone;
        gone
    }

    fn find(&mut self, id: SequenceId, _computing: &[(SequenceId, usize)], _room: usize) -> Found {
        self.found.get(&id).copied().unwrap_or(Found::NOTHING)
    }

    fn drop_memory(&mut self, id: SequenceId, _computed: usize) {
        self.preempted.push(id);
    }
}

/// The `n`th that was added, from 0.
fn id(n: u64) -> SequenceId {
    SequenceId { arrived: 0, number: n }
}

fn step(scheduler: &mut Scheduler) -> StepPlan {
    step_with(scheduler, &mut Prefixes::default())
}

fn step_with(scheduler: &mut Scheduler, kept: &mut Prefixes) -> StepPlan {
    let plan = scheduler.plan(kept);
    for row in &plan.rows {
        scheduler.advance(row, usize::from(row.samples()));
    }
    plan
}

fn rows(plan: &StepPlan) -> Vec<(u64, usize, usize, bool)> {
    plan.rows.iter().map(|row| (row.id.number, row.tokens.start, row.tokens.end, row.samples())).collect()
}

#[test]
fn a_prompt_is_chunked_then_decoded() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(19, 0);
    assert_eq!(rows(&step(&mut scheduler)), [(0, 0, 8, false)]);
    assert_eq!(rows(&step(&mut scheduler)), [(0, 8, 16, false)]);
    assert_eq!(rows(&step(&mut scheduler)), [(0, 16, 19, true)]);
    assert_eq!(rows(&step(&mut scheduler)), [(0, 19, 20, true)]);
    scheduler.remove(id(0));
    assert_eq!(scheduler.plan(&mut Prefixes::default()), StepPlan::default());
}

#[test]
fn a_one_token_prompt_samples_at_once() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(1, 0);
    assert_eq!(rows(&step(&mut scheduler)), [(0, 0, 1, true)]);
    assert_eq!(rows(&step(&mut scheduler)), [(0, 1, 2, true)]);
}

#[test]
fn decodes_go_on_beside_a_long_prompt() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(4, 0);
    step(&mut scheduler);
    scheduler.add(40, 0);
    scheduler.add(8, 0);
    assert_eq!(rows(&step(&mut scheduler)), [(0, 4, 5, true), (1, 0, 8, false)], "one chunk is left");
    assert_eq!(rows(&step(&mut scheduler))[0], (0, 5, 6, true));
}

/// A step in which others wait for their tokens computes less of a prompt where that takes longer.
#[test]
fn decodes_do_not_wait_for_a_slow_prompt() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(4, 0);
    step(&mut scheduler);
    scheduler.add(40, 0);
    scheduler.learn(StepLoad { decodes: 1, ..StepLoad::default() }, Duration::from_millis(10));
    let slow = StepLoad { decodes: 1, prompt_tokens: 8, contexts: 32.0 };
    scheduler.learn(slow, Duration::from_millis(41));
    assert_eq!(rows(&step(&mut scheduler)), [(0, 4, 5, true), (1, 0, 5, false)], "20 ms of 3.9 each");
    scheduler.remove(id(0));
    assert_eq!(rows(&step(&mut scheduler)), [(1, 5, 8, false)], "nobody waits");
}

/// The pace knows steps with drafts by another number than those without.
#[test]
fn drafts_do_not_keep_a_prompt_waiting() {
    let mut scheduler = Scheduler::new(Limits { max_draft_tokens: 3, kv_tokens: 1000, ..LIMITS });
    scheduler.add(4, 0);
    step(&mut scheduler);
    // It lasts longer than the test.
    scheduler.add(900, 0);
    let mut waited = 0;
    for n in 0..30 {
        scheduler.set_draft(id(0), if n < 4 { 0 } else { 3 });
        let load = StepLoad::of(&step(&mut scheduler).rows);
        scheduler.learn(load, Duration::from_millis(10));
        waited = if load.prompt_tokens > 0 { 0 } else { waited + 1 };
        assert!(waited < 2, "step {n}");
    }
}

#[test]
fn a_paused_sequence_takes_no_step_and_goes_on_where_it_stood() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(4, 0);
    step(&mut scheduler);
    scheduler.set_paused(id(0), true);
    assert!(scheduler.plan(&mut Prefixes::default()).rows.is_empty());
    assert_eq!(scheduler.held_tokens(), 4);
    scheduler.set_paused(id(0), false);
    assert_eq!(rows(&step(&mut scheduler)), [(0, 4, 5, true)]);
}

/// One that another worker had before it died does not have to wait behind those that have come since.
#[test]
fn who_arrived_first_anywhere_goes_first() {
    let mut scheduler = Scheduler::new(Limits { max_num_seqs: 1, ..LIMITS });
    scheduler.add(4, 20);
    let first = scheduler.add(4, 10);
    assert_eq!(step(&mut scheduler).rows[0].id, first);
}

#[test]
fn short_memory_preempts_the_latest() {
    let limits = Limits { kv_tokens: 18, ..LIMITS };
    let mut scheduler = Scheduler::new(limits);
    scheduler.add(8, 0);
    scheduler.add(7, 0);
    assert_eq!(step(&mut scheduler).rows.len(), 2);
    step(&mut scheduler);
    let mut kept = Prefixes::default();
    let plan = step_with(&mut scheduler, &mut kept);
    assert_eq!((&kept.preempted[..], scheduler.preemptions()), (&[id(1)][..], 1));
    assert_eq!(rows(&plan), [(0, 9, 10, true)]);
    assert_eq!(scheduler.waiting(), 1);
    scheduler.remove(id(0));
    assert_eq!(rows(&step(&mut scheduler)), [(1, 0, 8, false)], "computed again from the start");
}

/// Readers that have stalled must not keep others from being served: one more than there are places.
#[test]
fn paused_sequences_leave_their_places_to_others_and_keep_their_memory() {
    let mut scheduler = Scheduler::new(LIMITS);
    for _ in 0..4 {
        scheduler.add(4, 0);
    }
    step(&mut scheduler);
    step(&mut scheduler);
    scheduler.add(4, 0);
    assert!(step(&mut scheduler).rows.iter().all(|row| row.id != id(4)), "all places are taken");
    for n in 0..4 {
        scheduler.set_paused(id(n), true);
    }
    assert_eq!((scheduler.runnable(), scheduler.paused(), scheduler.waiting()), (0, 4, 1));
    assert_eq!(rows(&step(&mut scheduler)), [(4, 0, 4, true)]);
    assert!(scheduler.held_tokens() > 4, "the others' is still there");
}

#[test]
fn a_resumed_sequence_gets_its_place_back_from_the_latest() {
    let limits = Limits { max_num_seqs: 1, ..LIMITS };
    let mut scheduler = Scheduler::new(limits);
    scheduler.add(4, 0);
    step(&mut scheduler);
    scheduler.add(4, 0);
    scheduler.set_paused(id(0), true);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 0, 4, true)]);
    scheduler.set_paused(id(0), false);
    assert_eq!(rows(&step(&mut scheduler)), [(0, 4, 5, true)], "where it stood");
    assert_eq!((scheduler.runnable(), scheduler.waiting()), (1, 1));
    scheduler.remove(id(0));
    assert_eq!(rows(&step(&mut scheduler)), [(1, 4, 5, true)], "it has kept what was computed");
}

#[test]
fn memory_of_paused_sequences_is_taken_when_others_need_it() {
    let limits = Limits { kv_tokens: 30, ..LIMITS };
    let mut scheduler = Scheduler::new(limits);
    scheduler.add(8, 0);
    scheduler.add(8, 0);
    step(&mut scheduler);
    scheduler.add(3, 0);
    step(&mut scheduler);
    scheduler.set_paused(id(0), true);
    scheduler.set_paused(id(1), true);
    scheduler.add(8, 0);
    let mut kept = Prefixes::default();
    let plan = step_with(&mut scheduler, &mut kept);
    assert_eq!(kept.preempted, [id(1)], "the later of the two, and no more than needed");
    assert_eq!(rows(&plan), [(2, 3, 4, true), (3, 0, 8, true)]);
    scheduler.set_paused(id(1), false);
    scheduler.remove(id(3));
    assert_eq!(rows(&step(&mut scheduler)).last(), Some(&(1, 0, 8, false)), "computed again from its start");
}

#[test]
fn a_sequence_begins_behind_what_is_kept_of_it() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(20, 0);
    scheduler.add(6, 0);
    let found = [
        (id(0), Found::Ready { computed: 18, shared: 16 }),
        (id(1), Found::Ready { computed: 5, shared: 4 }),
    ];
    let mut kept = Prefixes { found: found.into(), held: 20, ..Prefixes::default() };
    assert_eq!(rows(&step_with(&mut scheduler, &mut kept)), [(1, 5, 6, true), (0, 18, 20, true)]);
    assert_eq!(scheduler.held_tokens(), 4 + 2, "the rest counts where it is kept");
    assert!(!scheduler.share(id(0), 18, 20), "it does not have the first 18 tokens in common");
    assert!(scheduler.share(id(0), 16, 20));
    assert_eq!(scheduler.held_tokens(), 2);
}

#[test]
fn a_sequence_waits_for_what_another_computes_and_others_do_not_wait_for_it() {
    let mut scheduler = Scheduler::new(LIMITS);
    for len in [20, 20, 4] {
        scheduler.add(len, 0);
    }
    let mut kept = Prefixes { found: [(id(1), Found::Soon)].into(), ..Prefixes::default() };
    assert_eq!(rows(&step_with(&mut scheduler, &mut kept)), [(0, 0, 8, false), (2, 0, 4, true)]);
    kept.found.insert(id(1), Found::Ready { computed: 8, shared: 8 });
    let rows = rows(&step_with(&mut scheduler, &mut kept));
    assert_eq!(rows, [(2, 4, 5, true), (0, 8, 16, false)], "the token budget is spent");
    assert_eq!(scheduler.computed(id(1)), 8);
}

#[test]
fn what_is_kept_makes_room_before_a_sequence_loses_its_memory() {
    let mut scheduler = Scheduler::new(LIMITS);
    for _ in 0..2 {
        scheduler.add(8, 0);
    }
    let mut kept = Prefixes { held: 90, ..Prefixes::default() };
    assert_eq!(step_with(&mut scheduler, &mut kept).rows.len(), 2);
    assert_eq!(
        (kept.held, &kept.preempted[..]),
        (83, &[][..]),
        "no more than needed for two prompts and tokens"
    );
    for _ in 0..30 {
        step_with(&mut scheduler, &mut kept);
    }
    assert_eq!((kept.held + scheduler.held_tokens(), &kept.preempted[..]), (100, &[][..]));
    // One for which there is no room keeps nothing from being evicted.
    kept.found.insert(id(2), Found::Ready { computed: 30, shared: 0 });
    scheduler.add(95, 0);
    step_with(&mut scheduler, &mut kept);
    assert_eq!((&kept.preempted[..], scheduler.computed(id(2))), (&[id(2)][..], 0));
    assert_eq!(scheduler.preemptions(), 0, "it had not begun");
}

proptest! {
    /// Random arrivals, pauses, removals and times of steps: limits hold in every step, every row continues where its
    /// sequence stood, no chunk is longer than allowed, and every sequence that can go on does.
    #[test]
    fn limits_hold_and_everybody_gets_on(
        prompts in prop::collection::vec((1_usize..60, 1_usize..30), 1..12),
        pauses in prop::collection::vec(0_usize..12, 0..20),
        millis in prop::collection::vec(0_u64..100, 1..20),
    ) {
        let limits = Limits { kv_tokens: 90, ..LIMITS };
        let mut scheduler = Scheduler::new(limits);
        let mut lens = BTreeMap::new();
        for (n, &(prompt, output)) in prompts.iter().enumerate() {
            scheduler.add(prompt, 0);
            lens.insert(n as u64, (prompt, prompt + output, 0));
        }
        let mut pauses = pauses.into_iter();
        let mut paused = None;
        for step in 0..20_000 {
            if let Some(n) = paused.take() {
                scheduler.set_paused(id(n), false);
            }
            if let Some(n) = pauses.next() {
                scheduler.set_paused(id(n as u64), true);
                paused = Some(n as u64);
            }
            let mut kept = Prefixes::default();
            let plan = scheduler.plan(&mut kept);
            for preempted in &kept.preempted {
                lens.get_mut(&preempted.number).unwrap().2 = 0;
            }
            prop_assert!(paused.is_some() || lens.is_empty() || !plan.rows.is_empty(), "stuck: {scheduler:?}");
            prop_assert!(scheduler.runnable() <= limits.max_num_seqs);
            for row in &plan.rows {
                let (len, last, computed) = lens[&row.id.number];
                prop_assert_ne!(Some(row.id.number), paused);
                let end = row.tokens.end;
                prop_assert_eq!(row.tokens.start, computed);
                prop_assert!(end > computed && end <= len);
                prop_assert!(end.div_ceil(limits.chunk_tokens) == (computed + 1).div_ceil(limits.chunk_tokens));
                prop_assert_eq!(&row.logits, &(if end == len { len - 1..len } else { end..end }));
                scheduler.advance(row, usize::from(row.samples()));
                let done = row.samples() && len + 1 == last;
                if done {
                    scheduler.remove(row.id);
                    lens.remove(&row.id.number);
                } else {
                    lens.insert(row.id.number, (len + usize::from(row.samples()), last, end));
                }
            }
            let took = Duration::from_millis(millis[step % millis.len()]);
            scheduler.learn(StepLoad::of(&plan.rows), took);
            prop_assert!(scheduler.held_tokens() <= limits.kv_tokens);
            if lens.is_empty() {
                break;
            }
        }
        prop_assert!(lens.is_empty(), "not finished: {lens:?}");
    }

    /// However many readers have stalled, and whenever: those that have not are served, at most as many as there are
    /// places; and a sequence goes on where it stood or, after it was preempted, from its start.
    #[test]
    fn stalled_readers_starve_nobody(
        prompts in prop::collection::vec(1_usize..30, 2..20),
        max_num_seqs in 1_usize..4,
        stalls in prop::collection::vec(prop::collection::vec(any::<bool>(), 20), 1..40),
    ) {
        let limits = Limits { max_num_seqs, kv_tokens: 70, ..LIMITS };
        let mut scheduler = Scheduler::new(limits);
        let mut computed = vec![0; prompts.len()];
        let mut lens = prompts.clone();
        let mut ids: Vec<SequenceId> = prompts.iter().map(|&prompt| scheduler.add(prompt, 0)).collect();
        let at = |id: SequenceId, ids: &[SequenceId]| ids.iter().position(|&other| other == id).unwrap();
        for stalled in &stalls {
            for (&id, &paused) in ids.iter().zip(stalled) {
                scheduler.set_paused(id, paused);
            }
            let mut kept = Prefixes::default();
            let plan = scheduler.plan(&mut kept);
            for preempted in &kept.preempted {
                computed[at(*preempted, &ids)] = 0;
            }
            let able = (0..prompts.len()).filter(|&n| !stalled[n]).count();
            prop_assert_eq!(scheduler.runnable() + scheduler.waiting() + scheduler.paused(), prompts.len());
            prop_assert!(scheduler.runnable() <= max_num_seqs);
            prop_assert!(able == 0 || !plan.rows.is_empty(), "nobody is served: {:?}", scheduler);
            for row in &plan.rows {
                let n = at(row.id, &ids);
                prop_assert!(!stalled[n]);
                prop_assert_eq!(row.tokens.start, computed[n]);
                prop_assert_eq!(row.samples(), row.tokens.end == lens[n]);
                scheduler.advance(row, usize::from(row.samples()));
                computed[n] = row.tokens.end;
                lens[n] += usize::from(row.samples());
            }
            prop_assert!(scheduler.held_tokens() <= limits.kv_tokens);
            // As the engine ends sequences at the context's end.
            for n in 0..prompts.len() {
                if lens[n] < 65 {
                    continue;
                }
                scheduler.remove(ids[n]);
                ids[n] = scheduler.add(prompts[n], 0);
                (lens[n], computed[n]) = (prompts[n], 0);
            }
        }
    }
}
