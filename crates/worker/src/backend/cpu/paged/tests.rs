#![allow(clippy::unwrap_used)]

use super::{super::super::Heads, *};
use crate::cache::OutOfBlocks;

const GEOMETRY: KvGeometry = KvGeometry { layers: 1, heads: Heads { queries: 2, kv: 2, dim: 8 } };
const BUDGET: KvBudget = KvBudget { bytes: 1 << 16, sequences: 2, dtype: KvDtype::Float32 };

#[test]
fn blocks_go_round() {
    let memory = PagedKv::new(GEOMETRY, BUDGET).unwrap();
    // A block has 32 tokens of 2 heads of 8 float32, keys and values: 4 KiB; two stay in reserve.
    assert_eq!(memory.tokens(), 14 * 32);
    let mut first = memory.sequence();
    assert_eq!(first.reserve(0, 33).unwrap(), [0, 1]);
    let mut second = memory.sequence();
    assert_eq!(second.reserve(0, 1).unwrap(), [2]);
    assert_eq!(first.reserve(33, 31).unwrap(), [0, 1], "the second block has room");
    first.truncate(32);
    assert_eq!(second.reserve(1, 63).unwrap(), [2, 1]);
    drop(first);
    let mut third = memory.sequence();
    assert!(matches!(third.reserve(0, 16 * 32), Err(KvError::Full(OutOfBlocks))));
    drop(third);
    assert_eq!(memory.sequence().reserve(0, 14 * 32).unwrap().len(), 14);
}

#[test]
fn a_budget_of_less_than_a_block_for_each_sequence_is_refused() {
    let budget = KvBudget { bytes: 3 * 4096 - 1, ..BUDGET };
    let error = PagedKv::new(GEOMETRY, budget).err().unwrap();
    assert!(matches!(error, KvError::Budget { needed: 12_288, .. }), "{error}");
    assert_eq!(PagedKv::new(GEOMETRY, KvBudget { bytes: 3 * 4096, ..budget }).unwrap().tokens(), 32);
}

#[test]
fn a_fork_shares_blocks_until_one_of_the_two_writes_to_them() {
    mlx_ext::init().unwrap();
    let memory = PagedKv::new(GEOMETRY, BUDGET).unwrap();
    let available = || memory.shared.pool().available();
    let mut first = memory.sequence();
    assert_eq!(first.reserve(0, 40).unwrap(), [0, 1]);
    let mut second = first.fork(40);
    let mut third = first.fork(32);
    assert_eq!((&second.blocks[..], &third.blocks[..], available()), (&[0, 1][..], &[0][..], 14));

    // The second block is partly filled, and whoever goes on first gets a copy; the last holder of the old one needs none.
    assert_eq!(second.reserve(40, 1).unwrap(), [0, 2]);
    assert_eq!(first.reserve(40, 1).unwrap(), [0, 1]);
    assert_eq!(third.reserve(32, 1).unwrap(), [0, 3], "behind full blocks nothing is copied");
    drop(first);
    assert_eq!(available(), 13, "the first block is others', too");
    drop((second, third));
    assert_eq!(available(), 16);
}

#[test]
fn a_shared_block_that_cannot_be_copied_stays_as_it_is() {
    mlx_ext::init().unwrap();
    let memory = PagedKv::new(GEOMETRY, BUDGET).unwrap();
    let mut first = memory.sequence();
    first.reserve(0, 16 * 32).unwrap();
    let mut second = first.fork(16);
    assert!(matches!(second.reserve(16, 1), Err(KvError::Full(OutOfBlocks))));
    assert_eq!(second.blocks, first.blocks[..1]);
    first.truncate(15 * 32);
    assert_eq!(second.reserve(16, 1).unwrap(), [15]);
}
