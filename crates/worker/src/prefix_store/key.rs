//! Names of segments.

use std::fmt;

use sha2::{Digest, Sha256};

use super::SEGMENT_TOKENS;
use crate::cache::Variant;

/// Names a segment by everything that its keys and values depend on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(pub(super) [u8; 32]);

/// Changes when the same numbers are written in another form, or computed in another way.
const GENERATION: &str = concat!("kr-serve prefixes 1, ", env!("CARGO_PKG_VERSION"));

impl Key {
    /// The one before the first segment.
    pub(super) fn root(identity: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(GENERATION);
        hash.update([0]);
        hash.update(identity);
        Self(hash.finalize().into())
    }

    /// The one before the first segment of sequences of a variant; this is that of the model alone.
    pub(super) fn of(self, variant: Variant) -> Self {
        let Variant(Some(adapter)) = variant else { return self };
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(adapter.to_string());
        Self(hash.finalize().into())
    }

    /// Those of the whole segments of `tokens`, in order; this is the one before them.
    pub(super) fn chain(self, tokens: &[u32]) -> impl Iterator<Item = Self> {
        tokens.chunks_exact(SEGMENT_TOKENS).scan(self, |last, tokens| {
            *last = last.next(tokens);
            Some(*last)
        })
    }

    fn next(self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Key {
    /// In hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}
