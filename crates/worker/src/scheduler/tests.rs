#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { max_running: 4, chunk_tokens: 8, step_tokens: 16, kv_tokens: 100 };

fn id(n: u64) -> RequestId {
    RequestId(n)
}

fn step(scheduler: &mut Scheduler) -> StepPlan {
    let plan = scheduler.plan();
    for row in &plan.rows {
        scheduler.advance(row);
    }
    plan
}

fn rows(plan: &StepPlan) -> Vec<(u64, usize, usize, bool)> {
    plan.rows.iter().map(|row| (row.id.0, row.start, row.end, row.samples)).collect()
}

#[test]
fn a_prompt_is_chunked_then_decoded() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(id(1), 19);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 0, 8, false)]);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 8, 16, false)]);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 16, 19, true)]);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 19, 20, true)]);
    scheduler.remove(id(1));
    assert_eq!(scheduler.plan(), StepPlan::default());
}

#[test]
fn a_one_token_prompt_samples_at_once() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(id(1), 1);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 0, 1, true)]);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 1, 2, true)]);
}

#[test]
fn decodes_go_on_beside_a_long_prompt() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(id(1), 4);
    step(&mut scheduler);
    scheduler.add(id(2), 40);
    scheduler.add(id(3), 8);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 4, 5, true), (2, 0, 8, false)], "one chunk is left");
    assert_eq!(rows(&step(&mut scheduler))[0], (1, 5, 6, true));
}

#[test]
fn a_paused_sequence_keeps_its_place_and_takes_no_step() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(id(1), 4);
    step(&mut scheduler);
    scheduler.set_paused(id(1), true);
    assert!(scheduler.plan().rows.is_empty());
    assert_eq!(scheduler.held_tokens(), 4);
    scheduler.set_paused(id(1), false);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 4, 5, true)]);
}

#[test]
fn short_memory_preempts_the_latest() {
    let limits = Limits { kv_tokens: 18, ..LIMITS };
    let mut scheduler = Scheduler::new(limits);
    scheduler.add(id(1), 8);
    scheduler.add(id(2), 7);
    assert_eq!(step(&mut scheduler).rows.len(), 2);
    step(&mut scheduler);
    let plan = step(&mut scheduler);
    assert_eq!(plan.preempted, [id(2)]);
    assert_eq!(rows(&plan), [(1, 9, 10, true)]);
    assert_eq!(scheduler.waiting(), 1);
    scheduler.remove(id(1));
    assert_eq!(rows(&step(&mut scheduler)), [(2, 0, 8, false)], "computed again from the start");
}

/// Readers that have stalled must not keep others from being served: one more than there are places.
#[test]
fn paused_sequences_leave_their_places_to_others_and_keep_their_memory() {
    let mut scheduler = Scheduler::new(LIMITS);
    for n in 0..4 {
        scheduler.add(id(n), 4);
    }
    step(&mut scheduler);
    step(&mut scheduler);
    scheduler.add(id(4), 4);
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
    let limits = Limits { max_running: 1, ..LIMITS };
    let mut scheduler = Scheduler::new(limits);
    scheduler.add(id(1), 4);
    step(&mut scheduler);
    scheduler.add(id(2), 4);
    scheduler.set_paused(id(1), true);
    assert_eq!(rows(&step(&mut scheduler)), [(2, 0, 4, true)]);
    scheduler.set_paused(id(1), false);
    assert_eq!(rows(&step(&mut scheduler)), [(1, 4, 5, true)], "where it stood");
    assert_eq!((scheduler.runnable(), scheduler.waiting()), (1, 1));
    scheduler.remove(id(1));
    assert_eq!(rows(&step(&mut scheduler)), [(2, 4, 5, true)], "it has kept what was computed");
}

#[test]
fn memory_of_paused_sequences_is_taken_when_others_need_it() {
    let limits = Limits { kv_tokens: 30, ..LIMITS };
    let mut scheduler = Scheduler::new(limits);
    scheduler.add(id(1), 8);
    scheduler.add(id(2), 8);
    step(&mut scheduler);
    scheduler.add(id(3), 3);
    step(&mut scheduler);
    scheduler.set_paused(id(1), true);
    scheduler.set_paused(id(2), true);
    scheduler.add(id(4), 8);
    let plan = step(&mut scheduler);
    assert_eq!(plan.preempted, [id(2)], "the later of the two, and no more than needed");
    assert_eq!(rows(&plan), [(3, 3, 4, true), (4, 0, 8, true)]);
    scheduler.set_paused(id(2), false);
    scheduler.remove(id(4));
    assert_eq!(rows(&step(&mut scheduler)).last(), Some(&(2, 0, 8, false)), "computed again from its start");
}

#[test]
fn a_sequence_whose_memory_was_lost_is_computed_again() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(id(1), 4);
    step(&mut scheduler);
    scheduler.forget_computed(id(1));
    assert_eq!(rows(&step(&mut scheduler)), [(1, 0, 5, true)]);
}

proptest! {
    /// Random arrivals, pauses and removals: limits hold in every step, every row continues where its
    /// sequence stood, cuts lie at multiples of the chunk, and whoever can go on goes on.
    #[test]
    fn limits_hold_and_everybody_gets_on(
        prompts in prop::collection::vec((1_usize..60, 1_usize..30), 1..12),
        pauses in prop::collection::vec(0_usize..12, 0..20),
    ) {
        let limits = Limits { kv_tokens: 90, ..LIMITS };
        let mut scheduler = Scheduler::new(limits);
        let mut lens = BTreeMap::new();
        for (n, &(prompt, output)) in prompts.iter().enumerate() {
            scheduler.add(id(n as u64), prompt);
            lens.insert(n as u64, (prompt, prompt + output, 0));
        }
        let mut pauses = pauses.into_iter();
        let mut paused = None;
        for _ in 0..20_000 {
            if let Some(n) = paused.take() {
                scheduler.set_paused(id(n), false);
            }
            if let Some(n) = pauses.next() {
                scheduler.set_paused(id(n as u64), true);
                paused = Some(n as u64);
            }
            let plan = scheduler.plan();
            for preempted in &plan.preempted {
                lens.get_mut(&preempted.0).unwrap().2 = 0;
            }
            prop_assert!(paused.is_some() || lens.is_empty() || !plan.rows.is_empty(), "stuck: {scheduler:?}");
            prop_assert!(scheduler.runnable() <= limits.max_running);
            for row in &plan.rows {
                let (len, last, computed) = lens[&row.id.0];
                prop_assert_ne!(Some(row.id.0), paused);
                prop_assert_eq!(row.start, computed);
                prop_assert!(row.end > row.start && row.end <= len);
                prop_assert!(row.end == len || row.end % limits.chunk_tokens == 0);
                prop_assert_eq!(row.samples, row.end == len);
                scheduler.advance(row);
                let done = row.samples && len + 1 == last;
                if done {
                    scheduler.remove(row.id);
                    lens.remove(&row.id.0);
                } else {
                    lens.insert(row.id.0, (len + usize::from(row.samples), last, row.end));
                }
            }
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
        max_running in 1_usize..4,
        stalls in prop::collection::vec(prop::collection::vec(any::<bool>(), 20), 1..40),
    ) {
        let limits = Limits { max_running, kv_tokens: 70, ..LIMITS };
        let mut scheduler = Scheduler::new(limits);
        let mut computed = vec![0; prompts.len()];
        let mut lens = prompts.clone();
        for (n, &prompt) in prompts.iter().enumerate() {
            scheduler.add(id(n as u64), prompt);
        }
        for stalled in &stalls {
            for (n, &paused) in stalled.iter().enumerate().take(prompts.len()) {
                scheduler.set_paused(id(n as u64), paused);
            }
            let plan = scheduler.plan();
            for preempted in &plan.preempted {
                computed[preempted.0 as usize] = 0;
            }
            let able = (0..prompts.len()).filter(|&n| !stalled[n]).count();
            prop_assert_eq!(scheduler.runnable() + scheduler.waiting() + scheduler.paused(), prompts.len());
            prop_assert!(scheduler.runnable() <= max_running);
            prop_assert!(able == 0 || !plan.rows.is_empty(), "nobody is served: {:?}", scheduler);
            for row in &plan.rows {
                let n = row.id.0 as usize;
                prop_assert!(!stalled[n]);
                prop_assert_eq!(row.start, computed[n]);
                prop_assert_eq!(row.samples, row.end == lens[n]);
                scheduler.advance(row);
                computed[n] = row.end;
                lens[n] += usize::from(row.samples);
            }
            prop_assert!(scheduler.held_tokens() <= limits.kv_tokens);
            // As the engine ends sequences at the context's end.
            for n in 0..prompts.len() {
                if lens[n] < 65 {
                    continue;
                }
                scheduler.remove(id(n as u64));
                scheduler.add(id(n as u64), prompts[n]);
                (lens[n], computed[n]) = (prompts[n], 0);
            }
        }
    }
}
