//! Which rows of a step attend together. Pure.

/// Rows with at most so many new tokens attend together: as many queries as MLX's kernel for few queries takes. One with
/// more has work enough for the device by itself.
const MOST_NEW_TOKENS: usize = 8;

/// Blocks that a group may be padded by, whatever its rows have: reading these is faster than another group's kernels.
const FREE_PADDING: usize = 64;

/// A row of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowShape {
    /// Tokens that the step appends.
    pub(super) new_tokens: usize,
    /// Blocks that it has with them.
    pub(super) blocks: usize,
}

/// Rows that are computed by the same kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grouped {
    /// Indices in the step; ascending. They have equally many new tokens.
    pub(super) rows: Vec<usize>,
    /// Blocks of the longest.
    pub(super) blocks: usize,
    /// Whether it is one for which keys and values are padded; else it has one row.
    pub(super) together: bool,
}

/// Groups of rows, each of which is padded to its longest row's length by no more than its rows have, and
/// [`FREE_PADDING`]. There are no more groups of rows with equally many new tokens than the longest row's blocks have
/// binary digits, however many rows there are. Each row is alone if they may not attend `together`.
pub(super) fn grouped(rows: &[RowShape], together: bool) -> Vec<Grouped> {
    let (mut short, long): (Vec<usize>, Vec<usize>) =
        (0..rows.len()).partition(|&row| together && rows[row].new_tokens <= MOST_NEW_TOKENS);
    // The longest first: those that do not fit into a group have less than half of its longest's blocks.
    short.sort_by_key(|&row| (rows[row].new_tokens, usize::MAX - rows[row].blocks));
    let mut groups: Vec<Grouped> = Vec::new();
    let mut free = 0;
    for row in short {
        let RowShape { new_tokens, blocks } = rows[row];
        let group = groups.last_mut().filter(|group| rows[group.rows[0]].new_tokens == new_tokens);
        match group {
            Some(group) if 2 * blocks >= group.blocks => group.rows.push(row),
            Some(group) if group.blocks - blocks <= free => {
                free -= group.blocks - blocks;
                group.rows.push(row);
            }
            _ => {
                groups.push(Grouped { rows: vec![row], blocks, together: true });
                free = FREE_PADDING;
            }
        }
    }
    // As the step has them: the same rows are in the same order in the next step, and often need not be reordered.
    groups.iter_mut().for_each(|group| group.rows.sort_unstable());
    groups.sort_by_key(|group| group.rows[0]);
    let alone = |row: usize| Grouped { rows: vec![row], blocks: rows[row].blocks, together: false };
    groups.into_iter().chain(long.into_iter().map(alone)).collect()
}

#[cfg(test)]
mod tests;
