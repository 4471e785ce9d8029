//! Products of heads, each with a matrix of its own.

use std::{ffi::c_int, ops::Range};

use mlx_rs::{Array, error::Exception};

use super::{
    Matrix, array_from, context,
    foreign::{RawHeadProducts, RawMatrix, mlx_ext_head_products},
};

/// Of each head of a row: some of its values as they are, then the product of some of them with the head's matrix.
#[derive(Debug, Clone)]
pub struct HeadProducts<'a> {
    /// float32 `[rows, heads * width]`, contiguous.
    pub x: &'a Array,
    /// How many heads a row has.
    pub heads: i32,
    /// Which of a head's values are copied; may be empty.
    pub copied: Range<i32>,
    /// Which of them meet the matrix: as many as it has inputs.
    pub inputs: Range<i32>,
    /// `[heads * n, inputs]`, of each head `n` rows one after the other. Without bias.
    pub matrix: Matrix<'a>,
    /// Which of a head's `n` rows are used.
    pub rows: Range<i32>,
    /// As in [`Linear`](super::Linear).
    pub int8: bool,
}

/// The result, lazy: float32 `[rows, heads * (copied + used rows)]`.
///
/// # Errors
/// Shapes or types that do not fit; when it is evaluated, an input that is not contiguous.
pub fn head_products(job: &HeadProducts<'_>) -> Result<Array, Exception> {
    let matrix = RawMatrix::new(&job.matrix);
    let count = |range: &Range<i32>| range.end.saturating_sub(range.start);
    let spec = RawHeadProducts {
        x: context(Some(job.x)),
        matrix: &raw const matrix,
        heads: job.heads,
        inputs: count(&job.inputs),
        first_input: job.inputs.start,
        first_copied: job.copied.start,
        copied: count(&job.copied),
        first_row: job.rows.start,
        outputs: count(&job.rows),
        int8: c_int::from(job.int8),
    };
    // SAFETY: every pointer in `spec` is null or borrowed from `job` or `matrix`, which outlive the call; C++ copies what it
    // keeps, and checks shapes and types itself.
    array_from(|message, len| unsafe { mlx_ext_head_products(&raw const spec, message, len) })
}
