//! What the engine needs of a model.

use std::{ops::Range, time::Duration};

use crate::{
    cache::Fork,
    model::{Landed, LaunchInput, Launched, Logits, Model, ModelError, Progress, SequenceKv, StepInput},
    sample::Choice,
};

/// What the engine needs of a model.
pub trait Forward {
    /// What it keeps of a sequence between steps.
    type Kv: Fork;

    /// A step that it computes.
    type Launched;

    /// Keys and values of a sequence that has no tokens yet.
    fn new_kv(&self) -> Self::Kv;

    /// Tokens of the unit in which sequences share memory; see [`Model::shared_block`].
    fn shared_block(&self) -> usize;

    /// Keys and values of some of a sequence's tokens as bytes; see [`SequenceKv::export`].
    ///
    /// # Errors
    /// Those of [`SequenceKv::export`].
    fn export(&self, kv: &Self::Kv, tokens: Range<usize>) -> Result<Vec<u8>, ModelError>;

    /// Appends to a sequence what [`export`](Self::export) gave of as many `tokens`.
    ///
    /// # Errors
    /// Those of [`SequenceKv::import`].
    fn import(&self, kv: &mut Self::Kv, tokens: usize, bytes: &[u8]) -> Result<(), ModelError>;

    /// How many threads may compute between steps; see [`Model::threads`].
    fn threads(&self) -> usize;

    /// What shows that a step goes on, where that can be seen; see [`Model::progress`].
    fn progress(&self) -> Option<Progress>;

    /// Asks for what a later sequence needs to go on behind the first `len` tokens of this one; see [`SequenceKv::mark`].
    fn mark(&self, _kv: &mut Self::Kv, _len: usize) {}

    /// Whether drafts can be checked; see [`Model::checks_drafts`].
    fn checks_drafts(&self) -> bool;

    /// Forgets the keys and values of every token from `len` on.
    fn truncate(&self, kv: &mut Self::Kv, len: usize);

    /// Runs the new tokens of several sequences; see [`Model::forward`].
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    fn forward(&self, input: &mut StepInput<'_, Self::Kv>) -> Result<Option<Logits>, ModelError>;

    /// The same, and chooses the tokens behind rows that have a choice; see [`Model::forward_choosing`]. Not called with
    /// any unless it [launches](Self::launches) steps.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    fn forward_choosing(
        &self,
        input: &mut StepInput<'_, Self::Kv>,
        choices: &[Option<Choice>],
    ) -> Result<Landed, ModelError>;

    /// Whether steps can be launched, and tokens be chosen in them; see [`Model::launches`].
    fn launches(&self) -> bool;

    /// Begins to compute a step; see [`Model::launch`].
    ///
    /// # Errors
    /// Those of [`Model::launch`].
    fn launch(
        &self,
        input: &mut LaunchInput<'_, Self::Kv, Self::Launched>,
    ) -> Result<Self::Launched, ModelError>;

    /// Waits for a step; see [`Model::land`].
    ///
    /// # Errors
    /// Those of [`Model::land`].
    fn land(&self, launched: &Self::Launched) -> Result<Landed, ModelError>;

    /// Forgets the last steps, which failed or were not waited for; see [`Model::abandon`].
    fn abandon(&self, steps: usize);

    /// How long steps since the last call have taken before anything was computed; see [`Model::take_building`].
    fn take_building(&self) -> Duration {
        Duration::ZERO
    }
}

impl Forward for Model {
    type Kv = SequenceKv;
    type Launched = Launched;

    fn new_kv(&self) -> SequenceKv {
        Self::new_kv(self)
    }

    fn shared_block(&self) -> usize {
        Self::shared_block(self)
    }

    fn export(&self, kv: &SequenceKv, tokens: Range<usize>) -> Result<Vec<u8>, ModelError> {
        kv.export(tokens)
    }

    fn import(&self, kv: &mut SequenceKv, tokens: usize, bytes: &[u8]) -> Result<(), ModelError> {
        kv.import(tokens, bytes)
    }

    fn threads(&self) -> usize {
        Self::threads(self)
    }

    fn progress(&self) -> Option<Progress> {
        Self::progress(self)
    }

    fn checks_drafts(&self) -> bool {
        Self::checks_drafts(self)
    }

    fn mark(&self, kv: &mut SequenceKv, len: usize) {
        kv.mark(len);
    }

    fn truncate(&self, kv: &mut SequenceKv, len: usize) {
        kv.truncate(len);
    }

    fn forward(&self, input: &mut StepInput<'_>) -> Result<Option<Logits>, ModelError> {
        Self::forward(self, input)
    }

    fn forward_choosing(
        &self,
        input: &mut StepInput<'_>,
        choices: &[Option<Choice>],
    ) -> Result<Landed, ModelError> {
        Self::forward_choosing(self, input, choices)
    }

    fn launches(&self) -> bool {
        Self::launches(self)
    }

    fn launch(&self, input: &mut LaunchInput<'_>) -> Result<Launched, ModelError> {
        Self::launch(self, input)
    }

    fn land(&self, launched: &Launched) -> Result<Landed, ModelError> {
        Self::land(self, launched)
    }

    fn abandon(&self, steps: usize) {
        Self::abandon(self, steps);
    }

    fn take_building(&self) -> Duration {
        Self::take_building(self)
    }
}
