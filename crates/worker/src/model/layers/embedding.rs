//! The embedding of tokens.

use mlx_rs::{Array, error::Exception};

use super::{ModelError, Weights, load_matrix};
use crate::backend::{Backend, Matrix, Rowwise};

/// A row of a matrix for each token.
pub(in crate::model) struct Embedding {
    matrix: Matrix,
    width: i32,
    /// Of each component.
    factor: f32,
    backend: Backend,
}

impl Embedding {
    /// Takes `<name>.weight` and what belongs to it. Rows are multiplied by `factor`.
    pub(in crate::model) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        [vocab, width]: [i32; 2],
        factor: f32,
    ) -> Result<Self, ModelError> {
        let matrix = load_matrix(weights, name, [vocab, width], false)?;
        Ok(Self { matrix, width, factor, backend: weights.backend() })
    }

    /// `[tokens, width]` of token ids, uint32 `[tokens]`, in the type that activations have; lazy.
    pub(in crate::model) fn lookup(&self, tokens: &Array) -> Result<Array, Exception> {
        let rows = self.backend.embedding(&self.matrix, tokens, self.width)?;
        if self.factor == 1.0 {
            return Ok(rows);
        }
        self.backend.rowwise(&Rowwise { factor: self.factor, ..Rowwise::of(&rows) })
    }

    /// The same matrix as an output head, without the factor. An adapter of an embedding is no adapter of a head.
    pub(in crate::model) fn head(&self) -> Matrix {
        self.matrix.clone().anonymous()
    }
}
