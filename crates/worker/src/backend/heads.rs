//! Products of a token's heads, each with a matrix of its own.

use std::ops::Range;

use mlx_rs::Array;

use super::Matrix;

/// Of each head: some of its values as they are, then the product of some of them with rows of the head's own matrix.
#[derive(Debug, Clone)]
pub(crate) struct HeadProducts<'a> {
    /// `[tokens, heads * width]`.
    pub(crate) x: &'a Array,
    pub(crate) heads: i32,
    /// Which of a head's values are copied; may be empty.
    pub(crate) copied: Range<i32>,
    /// Which of them meet the matrix.
    pub(crate) inputs: Range<i32>,
    /// `[heads * n, inputs]`, of each head `n` rows, without a bias.
    pub(crate) matrix: &'a Matrix,
    /// Which of a head's `n` rows are used.
    pub(crate) rows: Range<i32>,
}

#[cfg(test)]
mod tests;
