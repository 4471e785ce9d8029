//! Keys and values that are kept when their sequences have ended, as the scheduler sees them.

use super::SequenceId;

/// Prefixes of sequences, and the memory of sequences.
pub trait Kept {
    /// Tokens whose keys and values prefixes hold.
    fn held_tokens(&self) -> usize;

    /// Gives up about `tokens` tokens that no sequence uses. Returns how many; 0 if there are none.
    fn evict(&mut self, tokens: usize) -> usize;

    /// Gives a sequence that has nothing what is kept of it. `computing` are the sequences that compute their prompts,
    /// and how far they are: if one of them will have computed more of it, the sequence is to wait. There is memory for
    /// `room` more tokens, beside what can be evicted.
    fn find(&mut self, id: SequenceId, computing: &[(SequenceId, usize)], room: usize) -> Found;

    /// The sequence, of which `computed` tokens were computed, loses its keys and values, and waits again.
    fn drop_memory(&mut self, id: SequenceId, computed: usize);
}

/// What is kept of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It can begin, behind `computed` tokens of which the prefixes hold the first `shared`.
    Ready {
        /// How many tokens it need not compute: not all of them.
        computed: usize,
        /// How many of these take no memory of its own.
        shared: usize,
    },
    /// Another sequence is computing what it needs, or it is being read.
    Soon,
}

impl Found {
    /// Nothing is kept of it.
    pub const NOTHING: Self = Self::Ready { computed: 0, shared: 0 };
}
