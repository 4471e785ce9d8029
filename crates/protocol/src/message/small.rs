//! What is mostly so short that it has a place in its message, and takes no memory of its own.

use std::fmt;

use compact_str::CompactString;
use serde::{
    Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use smallvec::SmallVec;

/// The text of a delta: up to 24 bytes, which is more than most tokens have, take no memory of their own.
pub type DeltaText = CompactString;

/// The tokens of a delta: up to four take no memory of their own.
pub type DeltaTokens = SmallVec<[u32; 4]>;

/// Reads at most `MAX` tokens, and allocates nothing for a longer list.
pub(super) fn at_most<'de, D, const MAX: usize>(deserializer: D) -> Result<DeltaTokens, D::Error>
where
    D: Deserializer<'de>,
{
    deserializer.deserialize_seq(Tokens::<MAX>)
}

struct Tokens<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for Tokens<MAX> {
    type Value = DeltaTokens;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let len = list.size_hint().unwrap_or(0);
        if len > MAX {
            return Err(A::Error::invalid_length(len, &self));
        }
        let mut tokens = DeltaTokens::new();
        while let Some(token) = list.next_element()? {
            if tokens.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            tokens.push(token);
        }
        Ok(tokens)
    }
}
