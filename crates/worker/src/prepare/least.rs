//! The fewest tokens that a text can become, found without tokenizing it. What can't fit the context is refused for
//! a few milliseconds' work, where tokenizing takes hundreds of times the text's size in memory.
//!
//! Tokenizers differ in how they cut a text, but nearly all of them cover it: each token spells a stretch of it. So
//! the text has at least as many tokens as the longest possible stretches need. Bytes that a tokenizer may drop or
//! rewrite count for nothing; tokenizers that can put any text into one token have no such bound.

mod rules;

use std::collections::HashMap;

use rules::Rules;
use tokenizers::{Model as _, Tokenizer};

/// Lengths of the beginnings by which tokens are looked up.
const LEVELS: [usize; 4] = [2, 4, 8, 16];

/// Set in an item of text if bytes that count for nothing came before it.
const AFTER_GAP: u16 = 0x100;

/// Knows how far one token can reach at any place of a text.
#[derive(Debug)]
pub(super) struct LeastTokens {
    rules: Rules,
    /// Length of the longest token.
    longest: usize,
    /// For each level, by its first bytes: length of the longest token that begins so.
    by_prefix: [HashMap<u128, usize>; LEVELS.len()],
}

impl LeastTokens {
    /// Learns a tokenizer's tokens. `None` if one of them may stand for any length of text.
    pub(super) fn new(tokenizer: &Tokenizer) -> Option<Self> {
        let vocabulary = tokenizer.get_model().get_vocab();
        let rules = Rules::of(tokenizer, &vocabulary)?;
        let mut least = Self { rules, longest: 1, by_prefix: Default::default() };
        for token in vocabulary.keys() {
            let spelled = least.rules.spell(token);
            least.learn(&spelled);
        }
        for token in tokenizer.get_added_vocabulary().get_added_tokens_decoder().values() {
            for form in least.rules.spell_added(&token.content) {
                least.learn(&form);
            }
        }
        Some(least)
    }

    /// The fewest tokens of `text`, if that is more than `max`; it stops counting there.
    pub(super) fn exceeding(&self, text: &str, max: usize) -> Option<usize> {
        if self.rules.counts_words() {
            let words = text.split_whitespace().take(max + 1).count();
            return (words > max).then_some(words);
        }
        // No more of the text than decides it.
        let enough = max.saturating_add(1).saturating_mul(self.longest);
        let items: Vec<u16> = self.rules.items(text).take(enough).collect();
        let (mut tokens, mut covered, mut furthest) = (0, 0, 0);
        for start in 0..items.len() {
            furthest = furthest.max(self.reach(&items, start));
            if start == covered {
                // No token that begins before this place goes beyond it: the one that reaches furthest does not
                // need more tokens than any other.
                tokens += 1;
                covered = furthest;
                if tokens > max {
                    return Some(tokens);
                }
            }
        }
        None
    }

    /// Where a token that begins at `start` ends at most.
    fn reach(&self, items: &[u16], start: usize) -> usize {
        let mut longest = self.longest;
        let rest = &items[start..];
        // Beyond a gap a token may spell what was dropped or rewritten: nothing can be looked up across it.
        let known = if rest[0] & AFTER_GAP != 0 {
            0
        } else {
            let gap =
                rest.iter().skip(1).take(LEVELS[LEVELS.len() - 1] - 1).position(|item| item & AFTER_GAP != 0);
            gap.map_or(rest.len(), |gap| gap + 1)
        };
        let mut key = 0;
        let mut read = 0;
        for (level, table) in LEVELS.into_iter().zip(&self.by_prefix) {
            if known < level {
                break;
            }
            for &item in &rest[read..level] {
                key = key << 8 | u128::from(item & 0xff);
            }
            read = level;
            match table.get(&key) {
                Some(&len) => longest = len,
                None => {
                    longest = longest.min(level - 1);
                    break;
                }
            }
        }
        start + longest
    }

    /// Enters a token, and what it spells where a space before it was added by the tokenizer.
    fn learn(&mut self, spelled: &[u8]) {
        self.enter(spelled);
        if self.rules.adds_space()
            && let Some(rest) = spelled.strip_prefix(b" ")
        {
            self.enter(rest);
        }
    }

    fn enter(&mut self, spelled: &[u8]) {
        self.longest = self.longest.max(spelled.len());
        let mut key = 0;
        let mut read = 0;
        for (level, table) in LEVELS.into_iter().zip(&mut self.by_prefix) {
            if spelled.len() < level {
                return;
            }
            for &byte in &spelled[read..level] {
                key = key << 8 | u128::from(byte);
            }
            read = level;
            let longest = table.entry(key).or_default();
            *longest = spelled.len().max(*longest);
        }
    }
}

#[cfg(test)]
mod tests;
