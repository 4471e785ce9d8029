use super::super::{Limits, Scheduler, tests::Prefixes};

const LIMITS: Limits = Limits {
    max_held_seqs: 3,
    max_num_seqs: 2,
    chunk_tokens: 8,
    max_num_batched_tokens: 16,
    kv_tokens: 1000,
    unit_tokens: 1,
    keep_prefixes: true,
    max_draft_tokens: 0,
    windows: None,
};

/// However many are paused and come back, no more than so many hold something, and all get on.
#[test]
fn no_more_sequences_hold_something_than_may() {
    let (mut scheduler, mut kept) = (Scheduler::new(LIMITS), Prefixes::default());
    let ids: Vec<_> = (0..7).map(|_| scheduler.add(5, 0)).collect();
    let mut decoded = [0; 7];
    for turn in 0..200 {
        for (index, &id) in ids.iter().enumerate() {
            scheduler.set_paused(id, (turn / 5 + index) % 7 > 1);
        }
        let plan = scheduler.plan(&mut kept);
        assert!(!plan.rows.is_empty(), "somebody can always go on");
        for row in &plan.rows {
            scheduler.advance(row, usize::from(row.samples()));
            let index = ids.iter().position(|id| *id == row.id).unwrap_or_default();
            decoded[index] += usize::from(row.samples());
        }
        let holders = ids.iter().filter(|&&id| scheduler.computed(id) > 0).count();
        assert!(holders <= LIMITS.max_held_seqs, "{holders}");
    }
    assert!(decoded.iter().all(|tokens| *tokens > 10), "{decoded:?}");
    assert!(scheduler.preemptions() > 0 && !kept.preempted.is_empty());
}
