//! What one forward pass gets and gives, and how it is cut into parts.

use mlx_rs::{
    Array,
    error::{AsSliceError, Exception},
};

use super::{ModelError, SequenceKv};

/// What one forward pass computes: several sequences' new tokens.
pub struct StepInput<'a> {
    /// One row a sequence.
    pub rows: Vec<StepRow<'a>>,
}

/// The new tokens of one sequence.
pub struct StepRow<'a> {
    /// One token for decode, a chunk for prefill; not empty.
    pub tokens: &'a [u32],
    /// What the sequence has so far; the new tokens are appended.
    pub kv: &'a mut SequenceKv,
    /// Whether the logits after the last of `tokens` are needed.
    pub wants_logits: bool,
}

/// Evaluated logits, one row for each step row that wanted them.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    values: Vec<f32>,
    vocab_size: usize,
}

impl Logits {
    /// Copies evaluated float32 `[rows, vocab]`: a small copy that frees the engine's other
    /// threads from MLX.
    pub(super) fn read(array: &Array) -> Result<Self, Exception> {
        let values = array.try_as_slice::<f32>().map_err(|error| match error {
            AsSliceError::Exception(error) => error,
            other => Exception::custom(other.to_string()),
        })?;
        Ok(Self { values: values.to_vec(), vocab_size: array.dim(1) as usize })
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocab_size
    }

    /// Logits of the `row`th row that wanted them, one for each token of the vocabulary.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.vocab_size..][..self.vocab_size]
    }
}

/// How the rows of an input to a matrix product are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    /// Each row by itself, whatever the others are: decode.
    RowsApart,
    /// All rows in one product: a chunk of one sequence.
    Together,
}

/// Rows of a step that run through the model together.
pub(super) struct Part<'a> {
    /// Token ids, `[tokens]`.
    pub(super) tokens: Array,
    /// Position of each token in its sequence, `[tokens]`.
    pub(super) positions: Array,
    /// How matrices are multiplied.
    pub(super) product: Product,
    /// The sequences, each with the same number of tokens.
    pub(super) sequences: Vec<&'a mut SequenceKv>,
    /// New tokens of each sequence.
    pub(super) tokens_each: i32,
    /// Index in the step of each sequence's row, and whether it wants logits.
    rows: Vec<(usize, bool)>,
}

impl Part<'_> {
    /// For each row that wants logits: its index in the step, and its last token's in the part.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (usize, i32)> {
        (1..)
            .zip(&self.rows)
            .filter(|(_, (_, wants))| *wants)
            .map(|(n, (row, _))| (*row, n * self.tokens_each - 1))
    }
}

/// Refuses what the model could not compute, before anything changes.
pub(super) fn check(input: &StepInput<'_>, vocab_size: u32, context: u32) -> Result<(), ModelError> {
    for (row, StepRow { tokens, kv, .. }) in input.rows.iter().enumerate() {
        if tokens.is_empty() {
            return Err(ModelError::EmptyRow { row });
        }
        // MLX does not check indices: such a token would read outside the embedding.
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

/// All rows of one token as one part, every longer row as a part of its own.
///
/// What a row goes through depends on its own number of tokens alone.
pub(super) fn parts<'s>(input: &'s mut StepInput<'_>) -> Vec<Part<'s>> {
    let (decode, chunks): (Vec<_>, Vec<_>) =
        input.rows.iter_mut().enumerate().partition(|(_, row)| row.tokens.len() == 1);
    let mut parts = Vec::with_capacity(chunks.len() + 1);
    if !decode.is_empty() {
        parts.push(part(decode, Product::RowsApart));
    }
    parts.extend(chunks.into_iter().map(|chunk| part(vec![chunk], Product::Together)));
    parts
}

fn part<'s>(rows: Vec<(usize, &'s mut StepRow<'_>)>, product: Product) -> Part<'s> {
    let mut tokens: Vec<u32> = Vec::new();
    let mut positions: Vec<i32> = Vec::new();
    for (_, row) in &rows {
        tokens.extend(row.tokens);
        // `check` has bounded the length by the context, a 32-bit number.
        positions.extend((row.kv.len() as i32..).take(row.tokens.len()));
    }
    let len = tokens.len() as i32;
    Part {
        tokens: Array::from_slice(&tokens, &[len]),
        positions: Array::from_slice(&positions, &[len]),
        product,
        tokens_each: len / rows.len() as i32,
        rows: rows.iter().map(|(index, row)| (*index, row.wants_logits)).collect(),
        sequences: rows.into_iter().map(|(_, row)| &mut *row.kv).collect(),
    }
}
