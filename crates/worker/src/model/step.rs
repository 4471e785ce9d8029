//! What one forward pass gets and gives.

use mlx_rs::{
    Array,
    error::{AsSliceError, Exception},
};

use super::{ModelError, SequenceKv};

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
    /// Whether the logits after the last of `tokens` are needed.
    pub wants_logits: bool,
}

/// Evaluated logits, one row for each step row that wanted them.
#[derive(Debug)]
pub struct Logits {
    /// float32 `[rows, vocab]`.
    array: Array,
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

    /// Logits of the `row`th row that wanted them, one for each token of the vocabulary.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        let vocab = self.array.dim(1).unsigned_abs() as usize;
        &self.array.as_slice::<f32>()[row * vocab..][..vocab]
    }
}

/// Refuses what the model could not compute, before anything changes.
pub(super) fn check(input: &StepInput<'_>, vocab_size: u32, context: u32) -> Result<(), ModelError> {
    for (row, StepRow { tokens, kv, .. }) in input.rows.iter().enumerate() {
        if tokens.is_empty() {
            return Err(ModelError::EmptyRow { row });
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

/// All rows' tokens behind each other: uint32 `[tokens]`.
pub(super) fn tokens(input: &StepInput<'_>) -> Array {
    let tokens: Vec<u32> = input.rows.iter().flat_map(|row| row.tokens.iter().copied()).collect();
    Array::from_slice(&tokens, &[tokens.len() as i32])
}

/// Indices of the tokens after which logits are wanted, in the order of the rows.
pub(super) fn wanted(input: &StepInput<'_>) -> Vec<u32> {
    let mut end = 0;
    let last_tokens = input.rows.iter().map(|row| {
        end += row.tokens.len() as u32;
        (end - 1, row.wants_logits)
    });
    last_tokens.filter_map(|(last, wants)| wants.then_some(last)).collect()
}
