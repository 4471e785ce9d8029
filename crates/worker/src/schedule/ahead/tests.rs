#![allow(clippy::unwrap_used)]

use proptest::{prelude::*, sample::Index};

use crate::schedule::{Limits, SequenceId, tests::Prefixes};

use super::*;

const LIMITS: Limits = Limits {
    max_held_seqs: usize::MAX,
    max_num_seqs: 3,
    chunk_tokens: 8,
    max_num_batched_tokens: 16,
    kv_tokens: 60,
    unit_tokens: 1,
    keep_prefixes: true,
    max_draft_tokens: 0,
    windows: None,
};

fn step(scheduler: &mut Scheduler, kept: &mut Prefixes) -> Vec<PlannedRow> {
    let rows = scheduler.plan(kept).rows;
    rows.iter().for_each(|row| scheduler.advance(row, usize::from(row.samples())));
    rows
}

#[derive(Clone, Debug)]
enum Event {
    Add(usize, u64),
    Remove(Index),
    Pause(Index, bool),
    Keep(usize),
    Step,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (1..20_usize, 0..3_u64).prop_map(|(len, arrived)| Event::Add(len, arrived)),
        1 => any::<Index>().prop_map(Event::Remove),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(which, paused)| Event::Pause(which, paused)),
        1 => (0..9_usize).prop_map(Event::Keep),
        8 => Just(Event::Step),
    ]
}

proptest! {
    #[test]
    fn what_is_planned_ahead_is_what_a_whole_plan_would_be(events in prop::collection::vec(event(), 1..120)) {
        let (mut scheduler, mut kept) = (Scheduler::new(LIMITS), Prefixes::default());
        let mut ids: Vec<SequenceId> = Vec::new();
        for event in events {
            match event {
                Event::Add(len, arrived) => ids.push(scheduler.add(len, arrived)),
                Event::Remove(which) if !ids.is_empty() => scheduler.remove(ids.swap_remove(which.index(ids.len()))),
                Event::Pause(which, paused) if !ids.is_empty() => {
                    scheduler.set_paused(ids[which.index(ids.len())], paused);
                }
                Event::Keep(tokens) => kept.held += tokens,
                _ => {
                    let ahead = scheduler.plan_decodes(&mut kept);
                    let preempted = kept.preempted.len();
                    let rows = step(&mut scheduler, &mut kept);
                    if let Some(ahead) = ahead {
                        prop_assert_eq!(ahead, rows);
                        prop_assert_eq!(preempted, kept.preempted.len());
                    }
                }
            }
        }
    }
}

#[test]
fn decodes_go_on_while_others_wait_that_cannot_come() {
    let (mut scheduler, mut kept) = (Scheduler::new(LIMITS), Prefixes { held: 30, ..Prefixes::default() });
    for _ in 0..4 {
        scheduler.add(5, 0);
    }
    assert_eq!(scheduler.plan_decodes(&mut kept), None, "nobody has a place");
    step(&mut scheduler, &mut kept);
    while scheduler.running().any(|entry| !entry.decodes()) {
        assert_eq!(scheduler.plan_decodes(&mut kept), None, "there are prompts");
        step(&mut scheduler, &mut kept);
    }
    // Until the memory is used up: what is kept goes first.
    let mut steps = 0;
    while let Some(rows) = scheduler.plan_decodes(&mut kept) {
        assert_eq!(rows.len(), 3);
        rows.iter().for_each(|row| scheduler.advance(row, 1));
        steps += 1;
    }
    assert_eq!((steps, kept.held, kept.preempted.len()), (15, 0, 0));
    step(&mut scheduler, &mut kept);
    assert_eq!(kept.preempted.len(), 1);

    let first = *scheduler.entries.keys().next().unwrap();
    assert!(scheduler.plan_decodes(&mut kept).is_some());
    scheduler.look_again();
    assert_eq!(scheduler.plan_decodes(&mut kept), None);
    step(&mut scheduler, &mut kept);
    scheduler.remove(first);
    assert_eq!(scheduler.plan_decodes(&mut kept), None, "another one may come");
}

#[test]
fn what_was_recorded_can_be_taken_back() {
    let (mut scheduler, mut kept) = (Scheduler::new(LIMITS), Prefixes::default());
    scheduler.add(3, 0);
    step(&mut scheduler, &mut kept);
    let before = format!("{scheduler:?}");
    let rows: Vec<PlannedRow> = (0..2)
        .flat_map(|_| {
            let rows = scheduler.plan_decodes(&mut kept).unwrap();
            rows.iter().for_each(|row| scheduler.advance(row, 1));
            rows
        })
        .collect();
    assert_eq!(rows.iter().map(|row| row.tokens.clone()).collect::<Vec<_>>(), [3..4, 4..5]);
    rows.iter().rev().for_each(|row| scheduler.take_back(row));
    assert_eq!(format!("{scheduler:?}"), before);
}
