//! How much a report may hold, so that a worker that misbehaves costs its gateway little. The worker keeps to it, and
//! the gateway refuses what is beyond.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// Most events of one report. A step brings one or two for each of its sequences.
pub const MAX_EVENTS: usize = 1 << 16;

/// Most tokens of one delta. A step brings one, or a few that were drafted.
pub const MAX_DELTA_TOKENS: usize = 256;

/// Most parts of one delta. A token ends one at most and begins another.
pub const MAX_DELTA_PARTS: usize = 4 * MAX_DELTA_TOKENS;

/// Most of the most likely tokens that are reported with each token of an output.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// Most bytes of a token's text; what is longer is cut.
pub const MAX_TOKEN_BYTES: usize = 1024;

/// Most tokens of one answer.
pub const MAX_ANSWER_TOKENS: usize = 1 << 20;

/// Most texts that are embedded by one operation.
pub const MAX_EMBED_INPUTS: usize = 16;

/// Most numbers of an embedding.
pub const MAX_EMBEDDING_SIZE: usize = 8192;

/// Most numbers of one answer: they fit into the smallest report.
pub(super) const MAX_EMBEDDING_VALUES: usize = MAX_EMBED_INPUTS * MAX_EMBEDDING_SIZE;

/// Most bytes of a failure's message; what is longer is cut.
pub const MAX_FAILURE_TEXT: usize = 16 << 10;

/// A report is larger than the smallest rings, …
const MIN_REPORT: u64 = 1 << 20;

/// … and need not fill the largest.
const MAX_REPORT: u64 = 8 << 20;

const _: () =
    assert!(MAX_EMBEDDING_VALUES as u64 * 4 <= MIN_REPORT / 2, "an answer does not fit into a report");

/// Most bytes of a report over a ring of `ring_bytes`.
pub fn max_report_bytes(ring_bytes: u64) -> usize {
    ring_bytes.clamp(MIN_REPORT, MAX_REPORT) as usize
}

/// Cuts `text` to at most `max` bytes of whole characters.
pub(super) fn cut(text: &mut String, max: usize) {
    text.truncate(text.floor_char_boundary(max));
}

/// Reads a list of at most `MAX` items, and allocates nothing for a longer one.
pub(super) fn at_most<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(List::<T, MAX>(PhantomData))
}

struct List<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        /// More are made room for when they have come.
        const AT_FIRST: usize = 64;
        let len = list.size_hint().unwrap_or(0);
        if len > MAX {
            return Err(A::Error::invalid_length(len, &self));
        }
        let mut items = Vec::with_capacity(len.min(AT_FIRST));
        while let Some(item) = list.next_element()? {
            if items.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            items.push(item);
        }
        Ok(items)
    }
}
