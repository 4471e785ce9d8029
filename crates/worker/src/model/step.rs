//! What one forward pass gets and gives.

use std::{ops::Range, sync::Arc};

use mlx_rs::{
    Array,
    error::{AsSliceError, Exception},
};

use super::{Adapter, ModelError, SequenceKv, adapters::StepAdapters};

/// What one forward pass computes: several sequences' new tokens.
pub struct StepInput<'a, K = SequenceKv> {
    /// One row a sequence.
    pub rows: Vec<StepRow<'a, K>>,
}

/// The new tokens of one sequence.
pub struct StepRow<'a, K = SequenceKv> {
    /// One token for decode, a chunk for prefill; not empty.
    pub tokens: &'a [u32],
    /// What the sequence has so far; the new tokens are appended.
    pub kv: &'a mut K,
    /// Indices of those of `tokens` after which logits are needed: of the last one alone, of several, of none.
    pub logits: Range<usize>,
    /// What the row's results are computed with beside the model: the same for all of a sequence's tokens.
    pub adapter: Option<&'a Arc<Adapter>>,
}

/// Evaluated logits: one row for each token after which they were needed.
#[derive(Debug)]
pub struct Logits {
    /// float32 `[rows, vocab]`.
    array: Array,
}

impl<'a, K> StepRow<'a, K> {
    /// A row of which the logits after the last token are needed.
    pub fn last_logits(tokens: &'a [u32], kv: &'a mut K) -> Self {
        Self { tokens, kv, logits: tokens.len().saturating_sub(1)..tokens.len(), adapter: None }
    }

    /// A row of which no logits are needed.
    pub fn no_logits(tokens: &'a [u32], kv: &'a mut K) -> Self {
        Self { tokens, kv, logits: 0..0, adapter: None }
    }

    /// The same with an adapter, or none.
    #[must_use]
    pub fn with_adapter(self, adapter: Option<&'a Arc<Adapter>>) -> Self {
        Self { adapter, ..self }
    }
}

impl Logits {
    /// Takes evaluated, contiguous float32 `[rows, vocab]`.
    pub(crate) fn new(array: Array) -> Result<Self, Exception> {
        // Whether the values can be read is found out here, once, and not in `row`.
        array.try_as_slice::<f32>().map_err(|error| match error {
            AsSliceError::Exception(error) => error,
            other => Exception::custom(other.to_string()),
        })?;
        Ok(Self { array })
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.array.dim(0).unsigned_abs() as usize
    }

    /// Logits after the `row`th of the tokens that needed them, one for each token of the vocabulary. Tokens are counted
    /// in the order of the step's rows.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn row(&self, row: usize) -> &[f32] {
        self.rows_of(row..row + 1)
    }

    /// The same of several, one behind the other.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn rows_of(&self, rows: Range<usize>) -> &[f32] {
        let vocab = self.array.dim(1).unsigned_abs() as usize;
        &self.array.as_slice::<f32>()[rows.start * vocab..rows.end * vocab]
    }
}

/// Refuses what the model could not compute, before anything changes.
pub(super) fn check(input: &StepInput<'_>, vocab_size: u32, context: u32) -> Result<(), ModelError> {
    for (row, StepRow { tokens, kv, logits, .. }) in input.rows.iter().enumerate() {
        if tokens.is_empty() {
            return Err(ModelError::EmptyRow { row });
        }
        if !logits.is_empty() && logits.end > tokens.len() {
            return Err(ModelError::LogitsOutOfRange { row, logits: logits.clone(), len: tokens.len() });
        }
        // Nobody checks indices later: such a token would read outside the embedding.
        if let Some(&token) = tokens.iter().find(|&&token| token >= vocab_size) {
            return Err(ModelError::TokenOutOfRange { row, token, vocab_size });
        }
        let len = kv.len() + tokens.len();
        if len > context as usize {
            return Err(ModelError::ContextFull { row, len, limit: context });
        }
    }
    Ok(())
}

/// All rows' tokens concatenated: uint32 `[tokens]`.
pub(super) fn tokens(input: &StepInput<'_>) -> Array {
    let tokens: Vec<u32> = input.rows.iter().flat_map(|row| row.tokens.iter().copied()).collect();
    Array::from_slice(&tokens, &[tokens.len() as i32])
}

/// The adapter of each token, or of each after which logits are needed. `None` if no row has one.
pub(super) fn adapters(
    input: &StepInput<'_>,
    tokens_of: impl Fn(&StepRow<'_>) -> usize,
) -> Option<StepAdapters> {
    if input.rows.iter().all(|row| row.adapter.is_none()) {
        return None;
    }
    let of_row = |row: &StepRow<'_>| std::iter::repeat_n(row.adapter.cloned(), tokens_of(row));
    let rows: Vec<_> = input.rows.iter().flat_map(of_row).collect();
    StepAdapters::new(rows.iter().map(Option::as_ref))
}

/// Indices of the tokens after which logits are needed, in the order of the rows.
pub(super) fn wanted(input: &StepInput<'_>) -> Vec<u32> {
    let mut next = 0;
    let indices = input.rows.iter().flat_map(|row| {
        let start = next;
        next += row.tokens.len();
        row.logits.clone().map(move |index| (start + index) as u32)
    });
    indices.collect()
}
