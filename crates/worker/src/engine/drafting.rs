//! What a draft model has of one sequence, beside what the served model has of it.

/// Tokens after which a sequence that got no drafts asks for some again.
const PATIENCE: usize = 16;

/// Keys and values in a draft model, of a prefix of a sequence's tokens and of the guesses behind them.
#[derive(Debug)]
pub(super) struct Drafting<K> {
    pub(super) kv: Option<K>,
    /// Tokens whose keys and values it has, guesses included.
    pub(super) len: usize,
    /// How many of them are certainly the sequence's.
    pub(super) known: usize,
    /// The sequence goes on without drafts.
    pub(super) off: bool,
    /// It does until it has so many tokens.
    pub(super) wait_until: usize,
}

impl<K> Default for Drafting<K> {
    fn default() -> Self {
        Self { kv: None, len: 0, known: 0, off: false, wait_until: 0 }
    }
}

impl<K> Drafting<K> {
    /// Gives the memory back. All tokens have to be computed again.
    pub(super) fn clear(&mut self) {
        (self.kv, self.len, self.known) = (None, 0, 0);
    }

    /// Gives the memory back, and lets the sequence of `len` tokens go on without drafts for a while.
    pub(super) fn wait(&mut self, len: usize) {
        self.clear();
        self.wait_until = len + PATIENCE;
    }

    /// Gives the memory back for good.
    pub(super) fn turn_off(&mut self) {
        self.clear();
        self.off = true;
    }

    /// Tokens that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        if self.kv.is_some() { self.len } else { 0 }
    }
}
