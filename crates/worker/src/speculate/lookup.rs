//! Guesses from the sequence itself.

use std::collections::HashMap;

/// Tokens that have to match. With fewer, free text would match by chance too often.
const GRAM: usize = 3;

/// Where each run of `GRAM` tokens of a sequence stood last.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// The index behind it.
    last: HashMap<[u32; GRAM], u32>,
    /// Runs that end before this index are known.
    known: usize,
}

impl Lookup {
    /// What followed the last tokens of a sequence when they stood in it before: at most so many tokens, none if they did
    /// not. `tokens` only grow from call to call.
    pub(super) fn draft<'a>(&mut self, tokens: &'a [u32], most: usize) -> &'a [u32] {
        // The run at the end has no successor yet.
        for end in self.known.max(GRAM)..tokens.len() {
            if let Some(gram) = gram(tokens, end) {
                self.last.insert(gram, end as u32);
            }
        }
        self.known = tokens.len();
        let before = gram(tokens, tokens.len()).and_then(|gram| self.last.get(&gram));
        before.map_or(&[], |&start| {
            let rest = &tokens[start as usize..];
            &rest[..rest.len().min(most)]
        })
    }
}

fn gram(tokens: &[u32], end: usize) -> Option<[u32; GRAM]> {
    tokens.get(end.checked_sub(GRAM)?..end)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_followed_the_same_tokens_is_guessed() {
        let mut lookup = Lookup::default();
        assert!(lookup.draft(&[1, 2, 3, 4, 5], 8).is_empty());
        assert_eq!(lookup.draft(&[1, 2, 3, 4, 5, 1, 2, 3], 8), [4, 5, 1, 2, 3]);
        assert_eq!(lookup.draft(&[1, 2, 3, 4, 5, 1, 2, 3], 2), [4, 5]);
        assert_eq!(lookup.draft(&[1, 2, 3, 4, 5, 1, 2, 3, 9, 1, 2, 3], 1), [9], "the last time counts");
    }

    #[test]
    fn less_than_a_run_matches_nothing() {
        let mut lookup = Lookup::default();
        for len in 0..=3 {
            assert!(lookup.draft(&[7; 3][..len], 4).is_empty());
        }
        assert_eq!(lookup.draft(&[7; 4], 4), [7]);
    }

    proptest! {
        /// Whenever it was asked before, the answer is that of a search from the end.
        #[test]
        fn it_finds_the_latest_occurrence(
            tokens in prop::collection::vec(0..3u32, 0..60),
            asked in prop::collection::vec(any::<bool>(), 60),
            most in 0..6usize,
        ) {
            let mut lookup = Lookup::default();
            for len in 0..=tokens.len() {
                if !asked[len.min(59)] && len < tokens.len() {
                    continue;
                }
                let tokens = &tokens[..len];
                let tail = &tokens[len.saturating_sub(GRAM)..];
                let starts = (GRAM..len).rev().filter(|&end| tokens[end - GRAM..end] == *tail);
                let expected = starts.take(1).next().filter(|_| len >= GRAM).map_or(&[][..], |start| {
                    &tokens[start..len.min(start + most)]
                });
                prop_assert_eq!(lookup.draft(tokens, most), expected);
            }
        }
    }
}
