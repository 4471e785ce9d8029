#![allow(clippy::unwrap_used)]

use super::{super::super::Heads, *};

const GEOMETRY: KvGeometry = KvGeometry { layers: 1, heads: Heads { queries: 2, kv: 2, dim: 8 } };
const BUDGET: KvBudget = KvBudget { bytes: 1 << 16, sequences: 2, dtype: KvDtype::Float32 };

#[test]
fn a_budget_is_in_blocks_and_one_for_each_sequence_is_in_reserve() {
    // A block has 32 tokens of 2 heads of 8 float32, keys and values: 4 KiB.
    assert_eq!(PagedKv::new(GEOMETRY, BUDGET).unwrap().tokens(), 14 * 32);
}

#[test]
fn a_budget_of_less_than_a_block_for_each_sequence_is_refused() {
    let budget = KvBudget { bytes: 3 * 4096 - 1, ..BUDGET };
    let error = PagedKv::new(GEOMETRY, budget).err().unwrap();
    assert!(matches!(error, KvError::Budget { needed: 12_288, .. }), "{error}");
    assert_eq!(PagedKv::new(GEOMETRY, KvBudget { bytes: 3 * 4096, ..budget }).unwrap().tokens(), 32);
}
