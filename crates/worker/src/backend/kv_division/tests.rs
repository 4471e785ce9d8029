#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{super::KvDtype, *};

const BUDGET: KvBudget = KvBudget { bytes: 0, sequences: 2, dtype: KvDtype::Float32, step_tokens: Some(64) };

/// Of a model with as many layers of both kinds.
const BYTES: BlockBytes = BlockBytes { all: 1 << 12, windows: 1 << 12 };

fn divided(blocks: u64, copies: bool) -> (usize, usize) {
    let bytes = BlockBytes { windows: 0, ..BYTES };
    let budget = KvBudget { bytes: blocks << 12, ..BUDGET };
    let Division { blocks, copied, .. } = Division::whole(budget, bytes, copies).unwrap();
    (blocks.tokens, copied)
}

#[test]
fn a_fifth_of_the_budget_is_for_copies_if_it_can_be_spared() {
    assert_eq!(divided(40, true), (30 * 32, 8 * 32));
    assert_eq!(divided(40, false), (38 * 32, 0));
    assert_eq!(divided(3, true), (32, 0));
}

#[test]
fn no_more_blocks_are_promised_than_can_be_numbered() {
    let budget = KvBudget { bytes: 1 << 20, ..BUDGET };
    let all = Division::with_windows(budget, BYTES, (160, 10_000), false).unwrap();
    assert_eq!(all.at_most(i32::MAX), all);
    let (cut, windows) = (all.at_most(15), all.windows.unwrap());
    assert_eq!(cut.blocks, Blocks { count: 15, tokens: 13 * 32 });
    let lost = (windows.count - 15) as usize * 32;
    assert_eq!(cut.windows.unwrap().promised.tokens, windows.promised.tokens - lost);
}

#[test]
fn a_stretch_is_what_a_window_and_a_step_reach_in_whole_blocks() {
    assert_eq!(stretch(Reach::All, Some(64)), None);
    assert_eq!(stretch(Reach::Window(40), None), None);
    // 40, 64 and 32 tokens may lie in six blocks.
    assert_eq!(stretch(Reach::Window(40), Some(64)), Some(6 * 32));
    assert_eq!(stretch(Reach::Chunk(64), Some(127)), Some(8 * 32));
    assert_eq!(stretch(Reach::Chunk(64), Some(usize::MAX)), None);
}

#[test]
fn both_parts_last_for_sequences_of_four_stretches() {
    // 160 blocks of each sort, of which one is 5 blocks and the other 20 for such a sequence.
    let budget = KvBudget { bytes: 320 << 12, sequences: 100, ..BUDGET };
    let division = Division::with_windows(budget, BYTES, (160, 10_000), false).unwrap();
    let windows = division.windows.unwrap();
    assert_eq!((division.blocks.count, windows.count), (256, 64));
    assert_eq!(windows.promised, KvWindows { tokens: (64 - 5) * 32, stretch: 160 });
    // In a context of two stretches, both run out there.
    let division = Division::with_windows(budget, BYTES, (160, 320), false).unwrap();
    assert_eq!((division.blocks.count, division.windows.unwrap().count), (214, 106));
}

#[test]
fn windows_get_no_more_than_all_sequences_can_use() {
    let budget = KvBudget { bytes: 1 << 24, ..BUDGET };
    let division = Division::with_windows(budget, BYTES, (160, 10_000), false).unwrap();
    assert_eq!((division.blocks.count, division.windows.unwrap().count), (4096 - 20, 20));
    // Where all layers have windows, the others' part costs nothing.
    let bytes = BlockBytes { all: 0, ..BYTES };
    let division = Division::with_windows(budget, bytes, (160, 100_000), false).unwrap();
    assert!(division.blocks.tokens >= 100_000 && division.windows.unwrap().count == 20);
}

proptest! {
    /// No more is given than there is, and windows are of use or left alone.
    #[test]
    fn a_division_fits_its_budget(
        bytes in 0..1_u64 << 40,
        [all, windows] in [0..1_u64 << 24, 1..1_u64 << 24],
        [stretch, context] in [1..10_000_usize, 1..1_000_000],
        sequences in 1..100_usize,
    ) {
        let (budget, of) = (KvBudget { bytes, sequences, ..BUDGET }, BlockBytes { all, windows });
        let context = context.max(stretch + 1);
        let Some(division) = Division::with_windows(budget, of, (stretch, context), false) else { return Ok(()) };
        let share = division.windows.unwrap();
        let taken = division.blocks.count as u128 * u128::from(all) + share.count as u128 * u128::from(windows);
        prop_assert!(taken <= u128::from(bytes), "{division:?}");
        prop_assert!(share.promised.tokens >= 2 * share.promised.stretch && share.promised.stretch >= stretch);
        prop_assert_eq!(share.promised.tokens + share.promised.stretch, share.count as usize * BLOCK_TOKENS);
        prop_assert!(division.blocks.tokens > 0);
    }
}
