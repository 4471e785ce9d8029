#![allow(clippy::unwrap_used)]

use super::*;
use crate::backend::KvDtype;

const BUDGET: KvBudget =
    KvBudget { bytes: 1 << 20, sequences: 2, dtype: KvDtype::Float32, step_tokens: None };

#[test]
fn a_budget_is_divided_so_that_snapshots_take_no_more_than_keys_and_values() {
    for (state, token) in [(1, 4096), (4096, 512), (20_000, 24), (64, 64), (100_000, 7)] {
        for bytes in [1_u64 << 20, 10 << 20, 1 << 30] {
            let budget = KvBudget { bytes, ..BUDGET };
            let divided = match divide(budget, state, token) {
                Ok(divided) => divided,
                Err(KvError::Budget { bytes: found, needed }) => {
                    assert!(found == bytes && needed > bytes);
                    continue;
                }
                Err(other) => panic!("{other}"),
            };
            let states = divided.states as u64;
            let snapshots = (states - pinned_states(divided.kv.sequences)) * state;
            assert!(divided.kv.bytes + states * state <= bytes, "{divided:?} of {bytes}");
            let blocks = divided.kv.sequences as u64 + 1;
            assert!(snapshots >= state && divided.kv.bytes >= blocks * 32 * token);
            assert!(divided.interval.is_multiple_of(BLOCK_TOKENS));
            assert!(divided.interval as u64 * token >= state);
        }
    }
    // Half of the budget has three states: enough for one sequence, not for two.
    assert_eq!(divide(BUDGET, 150_000, 64).unwrap().kv.sequences, 1);
    assert_eq!(divide(BUDGET, 90_000, 64).unwrap().kv.sequences, 2);
    assert!(matches!(divide(BUDGET, 1 << 20, 64), Err(KvError::Budget { .. })));
    assert!(divide(BUDGET, u64::MAX, u64::MAX).is_err(), "no product of sizes overflows");
}
