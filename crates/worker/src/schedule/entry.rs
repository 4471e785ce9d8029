//! What the scheduler knows of one sequence.

use super::{PlannedRow, SequenceId};

/// What the scheduler knows of a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Tokens of prompt and output so far.
    pub(super) len: usize,
    /// How many of them have their keys and values held.
    pub(super) computed: usize,
    /// How many of these are held by the kept prefixes, and count there.
    pub(super) shared: usize,
    /// It has no credit, because its reader is slow: no step may extend it.
    pub(super) paused: bool,
    /// It is one of the running set.
    pub(super) placed: bool,
    /// Tokens that are guessed behind its last one.
    pub(super) draft: usize,
}

impl Entry {
    /// Tokens whose keys and values it holds for itself.
    pub(super) fn own(&self) -> usize {
        self.computed - self.shared
    }

    /// Whether the next step computes just its last token.
    pub(super) fn decodes(&self) -> bool {
        self.computed > 0 && self.computed + 1 == self.len
    }

    /// Where its next chunk ends: at a multiple of `chunk` tokens, or with the sequence.
    pub(super) fn chunk_end(&self, chunk: usize) -> usize {
        self.len.min((self.computed / chunk + 1) * chunk)
    }

    /// A row of its next tokens, up to `end`.
    pub(super) fn row(&self, id: SequenceId, end: usize) -> PlannedRow {
        // The next token is chosen from the logits after the last of all, those behind from the logits after guesses.
        let logits = if end >= self.len { self.len - 1..end } else { end..end };
        PlannedRow { id, tokens: self.computed..end, logits }
    }
}
