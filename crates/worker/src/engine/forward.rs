//! What the engine needs of a model.

use crate::{
    cache::Fork,
    model::{Logits, Model, ModelError, Progress, SequenceKv, StepInput},
};

/// What the engine needs of a model.
pub trait Forward {
    /// What it keeps of a sequence between steps.
    type Kv: Fork;

    /// Keys and values of a sequence that has no tokens yet.
    fn new_kv(&self) -> Self::Kv;

    /// Whether a sequence can go on with what it has after a step that failed; see [`SequenceKv::is_intact`].
    fn is_intact(&self, kv: &Self::Kv) -> bool;

    /// Tokens of the unit in which sequences share memory; see [`Model::shared_block`].
    fn shared_block(&self) -> Option<usize>;

    /// How many threads may compute between steps; see [`Model::threads`].
    fn threads(&self) -> usize;

    /// What shows that a step goes on, where that can be seen; see [`Model::progress`].
    fn progress(&self) -> Option<Progress>;

    /// Runs the new tokens of several sequences; see [`Model::forward`].
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    fn forward(&self, input: &mut StepInput<'_, Self::Kv>) -> Result<Option<Logits>, ModelError>;
}

impl Forward for Model {
    type Kv = SequenceKv;

    fn new_kv(&self) -> SequenceKv {
        Self::new_kv(self)
    }

    fn is_intact(&self, kv: &SequenceKv) -> bool {
        kv.is_intact()
    }

    fn shared_block(&self) -> Option<usize> {
        Self::shared_block(self)
    }

    fn threads(&self) -> usize {
        Self::threads(self)
    }

    fn progress(&self) -> Option<Progress> {
        Self::progress(self)
    }

    fn forward(&self, input: &mut StepInput<'_>) -> Result<Option<Logits>, ModelError> {
        Self::forward(self, input)
    }
}
