#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::{Limits, SequenceId, WindowLimits, tests::Prefixes};
use super::*;

const WINDOWS: WindowLimits = WindowLimits { tokens: 48, stretch: 20 };

const LIMITS: Limits = Limits {
    max_held_seqs: usize::MAX,
    max_num_seqs: 4,
    chunk_tokens: 8,
    max_num_batched_tokens: 16,
    kv_tokens: 1000,
    unit_tokens: 4,
    keep_prefixes: true,
    max_draft_tokens: 0,
    windows: Some(WINDOWS),
};

/// A step; of each row whose it is.
fn step(scheduler: &mut Scheduler) -> Vec<u64> {
    let plan = scheduler.plan(&mut Prefixes::default());
    plan.rows.iter().for_each(|row| scheduler.advance(row, usize::from(row.samples())));
    plan.rows.iter().map(|row| row.id.number).collect()
}

#[test]
fn a_long_sequence_needs_no_more_than_its_stretch() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.add(100, 0);
    assert_eq!(scheduler.windowed_tokens(), 0);
    assert_eq!(step(&mut scheduler), [0]);
    assert_eq!((scheduler.windowed_tokens(), scheduler.windowed_share()), (20, 20 * 1000 / 48));
    scheduler.add(5, 0);
    step(&mut scheduler);
    // Five tokens and the next one, in units of four.
    assert_eq!(scheduler.windowed_tokens(), 28);
}

#[test]
fn who_would_need_more_than_is_left_waits() {
    let mut scheduler = Scheduler::new(LIMITS);
    let ids: Vec<SequenceId> = (0..3).map(|_| scheduler.add(30, 0)).collect();
    step(&mut scheduler);
    assert_eq!((scheduler.runnable(), scheduler.waiting()), (2, 1));
    scheduler.remove(ids[0]);
    step(&mut scheduler);
    assert_eq!((scheduler.runnable(), scheduler.waiting(), scheduler.preemptions()), (2, 0, 0));
}

/// Without windows the same sequences run together.
#[test]
fn who_grows_beyond_what_is_left_displaces_the_latest() {
    let grown = |windows| {
        let mut scheduler = Scheduler::new(Limits { windows, ..LIMITS });
        for _ in 0..4 {
            scheduler.add(7, 0);
        }
        for _ in 0..20 {
            step(&mut scheduler);
        }
        (scheduler.runnable(), scheduler.preemptions())
    };
    assert_eq!(grown(None), (4, 0));
    let (running, preemptions) = grown(Some(WINDOWS));
    assert!(running == 2 && preemptions >= 2, "{running}, {preemptions}");
}

proptest! {
    /// Whatever sequences come and are paused: no more is needed than there is, and everybody gets on.
    #[test]
    fn limits_hold_and_everybody_gets_on(
        prompts in prop::collection::vec((1_usize..60, 1_usize..30), 1..12),
        pauses in prop::collection::vec(0_usize..12, 0..20),
        tokens in 20..100_usize,
    ) {
        let windows = WindowLimits { tokens, ..WINDOWS };
        let mut scheduler = Scheduler::new(Limits { kv_tokens: 200, windows: Some(windows), ..LIMITS });
        let ids: Vec<SequenceId> = prompts.iter().map(|&(prompt, _)| scheduler.add(prompt, 0)).collect();
        let mut left: BTreeMap<_, _> = ids.iter().copied().zip(prompts.iter().map(|&(_, output)| output)).collect();
        let mut pauses = pauses.into_iter();
        let mut paused = None;
        for _ in 0..20_000 {
            paused.take().into_iter().for_each(|id| scheduler.set_paused(id, false));
            if let Some(&id) = pauses.next().and_then(|n| ids.get(n)) {
                scheduler.set_paused(id, true);
                paused = Some(id);
            }
            let plan = scheduler.plan(&mut Prefixes::default());
            prop_assert!(scheduler.windowed_tokens() <= windows.tokens || plan.rows.is_empty());
            prop_assert!(paused.is_some() || !plan.rows.is_empty(), "stuck: {scheduler:?}");
            for row in &plan.rows {
                scheduler.advance(row, usize::from(row.samples()));
                let more = left.get_mut(&row.id).unwrap();
                *more -= usize::from(row.samples());
                if *more == 0 {
                    scheduler.remove(row.id);
                    left.remove(&row.id);
                }
            }
            if left.is_empty() {
                return Ok(());
            }
        }
        prop_assert!(false, "not finished: {left:?}");
    }
}
