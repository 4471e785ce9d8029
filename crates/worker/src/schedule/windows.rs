//! Memory in layers that keep no more of a sequence than their windows reach.

use super::{Entry, Scheduler};

/// What is held in such layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// Most tokens, over all sequences. What kept prefixes hold does not count: it is given up for sequences.
    pub tokens: usize,
    /// Most tokens of a sequence, however long it is; no more than the former.
    pub stretch: usize,
}

impl Scheduler {
    /// Tokens that sequences have there, or may need for the next step and, with a place, for the rest of their prompts.
    /// What several sequences share counts for each.
    pub fn windowed_tokens(&self) -> usize {
        self.entries.values().map(|entry| self.windowed(entry, entry.placed)).sum()
    }

    /// The same as a part of the [tokens](super::Limits::kv_tokens) that all sequences may hold.
    pub fn windowed_share(&self) -> usize {
        let (used, all) = (self.windowed_tokens() as u128, self.limits.kv_tokens as u128);
        self.limits.windows.map_or(0, |limit| (used * all / limit.tokens.max(1) as u128) as usize)
    }

    /// Whether more may be needed than there is.
    pub(super) fn lacks_windows(&self) -> bool {
        self.limits.windows.is_some_and(|limit| self.windowed_tokens() > limit.tokens)
    }

    /// Whether a sequence without a place can have one.
    pub(super) fn has_windows_for(&self, entry: &Entry) -> bool {
        let others = || self.windowed_tokens() - self.windowed(entry, entry.placed);
        self.limits.windows.is_none_or(|limit| others() + self.windowed(entry, true) <= limit.tokens)
    }

    fn windowed(&self, entry: &Entry, placed: bool) -> usize {
        let Some(limit) = self.limits.windows else { return 0 };
        let most = if placed { entry.len + 1 + self.limits.max_draft_tokens } else { entry.computed };
        most.next_multiple_of(self.limits.unit_tokens.max(1)).min(limit.stretch)
    }
}

#[cfg(test)]
mod tests;
