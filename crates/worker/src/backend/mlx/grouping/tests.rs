#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn row(new_tokens: usize, blocks: usize) -> RowShape {
    RowShape { new_tokens, blocks }
}

fn rows_of(groups: &[Grouped]) -> Vec<&[usize]> {
    groups.iter().map(|group| &group.rows[..]).collect()
}

#[test]
fn rows_that_decode_are_one_group_and_each_chunk_is_another() {
    let rows = [row(1, 3), row(200, 7), row(1, 9), row(9, 1), row(1, 1)];
    let groups = grouped(&rows, true);
    assert_eq!(rows_of(&groups), [&[0, 2, 4][..], &[1], &[3]]);
    assert_eq!(groups.iter().map(|group| group.together).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(groups[0].blocks, 9);
    let apart = grouped(&rows, false);
    assert!(apart.len() == 5 && apart.iter().all(|group| !group.together));
}

#[test]
fn short_rows_are_not_padded_to_a_long_one() {
    let rows = [row(1, 2), row(1, 1000), row(1, 3), row(1, 900)];
    assert_eq!(rows_of(&grouped(&rows, true)), [&[0, 2][..], &[1, 3]]);
}

#[test]
fn rows_with_drafts_of_one_length_are_a_group() {
    let rows = [row(4, 2), row(1, 2), row(4, 3)];
    assert_eq!(rows_of(&grouped(&rows, true)), [&[0, 2][..], &[1]]);
}

proptest! {
    #[test]
    fn every_row_is_in_one_group_and_padding_and_groups_are_bounded(
        rows in prop::collection::vec((1..11_usize, 1..5000_usize), 0..70),
    ) {
        let rows: Vec<RowShape> = rows.into_iter().map(|(new, blocks)| row(new, blocks)).collect();
        let groups = grouped(&rows, true);
        let mut all: Vec<usize> = groups.iter().flat_map(|group| group.rows.clone()).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..rows.len()).collect::<Vec<_>>());
        for group in &groups {
            let blocks = || group.rows.iter().map(|&row| rows[row].blocks);
            prop_assert_eq!(Some(group.blocks), blocks().max());
            prop_assert!(group.rows.len() * group.blocks <= 2 * blocks().sum::<usize>() + FREE_PADDING);
            prop_assert!(group.rows.iter().all(|&row| rows[row].new_tokens == rows[group.rows[0]].new_tokens));
            prop_assert!(group.together || group.rows.len() == 1);
        }
        for new_tokens in 1..=MOST_NEW_TOKENS {
            let of = |group: &&Grouped| rows[group.rows[0]].new_tokens == new_tokens;
            // 5000 has thirteen digits.
            prop_assert!(groups.iter().filter(of).count() <= 13);
        }
    }
}
