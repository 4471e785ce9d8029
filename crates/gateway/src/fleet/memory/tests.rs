#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::fleet::fixtures::{info, stored};

const GIB: u64 = 1 << 30;

fn budget(max_bytes: u64) -> MemoryBudget {
    MemoryBudget::fixed(max_bytes, WorkerOptions::default())
}

#[test]
fn room_is_left_where_others_may_come() {
    let budget = budget(8 * GIB);
    assert!(budget.expects_more(1, 2) && !budget.expects_more(2, 2));
    let two_named = MemoryBudget { others_come: false, named: 2, ..budget };
    assert!(two_named.expects_more(1, 4) && !two_named.expects_more(2, 4));
    let model = stored("m", 2 * GIB);
    let reserved = |is_last| two_named.grant(Some(&model), 0, 1, is_last).unwrap().reserved;
    assert_eq!(reserved(false), 2 * GIB + 3 * GIB);
    assert_eq!(reserved(true), 2 * GIB + 4 * GIB + (256 << 20), "as much as `worker.kv_max_bytes` allows");
}

#[test]
fn there_is_memory_for_adapters_where_some_are_stored() {
    let reserved = |has_adapters| {
        let model = StoredModel { has_adapters, ..stored("m", 2 * GIB) };
        budget(16 * GIB).grant(Some(&model), 0, 1, true).unwrap().reserved
    };
    assert_eq!(reserved(true) - reserved(false), WorkerOptions::default().adapter_bytes);
}

#[test]
fn what_a_worker_says_counts_and_is_what_the_next_one_gets() {
    let budget = budget(8 * GIB);
    let mut grant = budget.grant(None, GIB, 3, true).unwrap();
    assert_eq!((grant.reserved, grant.is_known, grant.share.left_bytes), (7 * GIB, false, 7 * GIB));
    grant.settle(&ModelInfo { weight_bytes: GIB, kv_bytes: 100, other_bytes: 10, ..info("d") });
    assert_eq!((grant.reserved, grant.is_known), (GIB + 330, true));
    assert_eq!((grant.share.left_bytes, grant.share.leaves_room), (GIB + 330, false));
    grant.learn(&budget, Some(&stored("m", 5)));
    assert_eq!(grant.reserved, GIB + 330, "it was known");
}

#[test]
fn the_machine_has_memory() {
    assert!(machine_memory().unwrap() > 1 << 20);
}

proptest! {
    #[test]
    fn never_more_is_reserved_than_there_may_be(
        max_bytes in GIB..64 * GIB,
        models in prop::collection::vec((1..20 * GIB, 1..4_usize, any::<bool>(), any::<bool>()), 1..8),
    ) {
        let budget = budget(max_bytes);
        let mut reserved = 0;
        for (weights, workers, is_last, is_known) in models {
            let model = stored("m", weights);
            let known = is_known.then_some(&model);
            let least = budget.least(known, workers);
            match budget.grant(known, reserved, workers, is_last) {
                Ok(grant) => {
                    prop_assert!(reserved + grant.reserved <= max_bytes);
                    prop_assert!(grant.reserved >= least.unwrap());
                    reserved += grant.reserved;
                }
                Err(shortage) => {
                    prop_assert!(least.map_or(true, |least| least > max_bytes - reserved));
                    prop_assert_eq!(shortage.is_temporary(), least.is_ok());
                }
            }
        }
    }
}
