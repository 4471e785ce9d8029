//! A model's tokens as bytes, in the form that llguidance walks.
//!
//! The bytes are what a token adds to the text that a client sees. Tokens that add nothing to it can't be part of an
//! output, but for those that end it, and those that a grammar names.
//!
//! The library may spell a text with any tokens, not only with those that the tokenizer would choose: its own way to
//! tell them apart needs a tokenizer that gives every text back unchanged, and normalizers don't.

use std::sync::Arc;

use anyhow::ensure;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};
use protocol::message::PieceForm;
use tokenizers::Tokenizer;

use crate::engine::{EosTokens, emit::PieceReader};

/// Longest token, in bytes, that may be part of an output. The library's trie is not deeper than 1024.
const MAX_TOKEN: usize = 1000;

/// Most tokens of a vocabulary, and bytes of all of them: what the library's trie has room for. The largest
/// vocabularies of today have 262144 tokens of 2 MB.
const MAX_TOKENS: u32 = 1 << 22;
const MAX_BYTES: usize = (1 << 22) - 1;

/// What a model's tokens are.
#[derive(Clone, Copy, Debug)]
pub(in crate::prepare) struct Vocabulary<'a> {
    pub(in crate::prepare) tokenizer: &'a Tokenizer,
    /// Number of token ids that the model has, whatever the tokenizer has.
    pub(in crate::prepare) size: u32,
    pub(in crate::prepare) eos_tokens: &'a EosTokens,
}

/// The tokens, of which those that end an output are known.
pub(super) fn walkable(vocabulary: Vocabulary<'_>) -> anyhow::Result<TokEnv> {
    let Vocabulary { tokenizer, size, eos_tokens } = vocabulary;
    ensure!(size < MAX_TOKENS, "its vocabulary has {size} tokens");
    let words = words(tokenizer, size);
    let bytes: usize = words.iter().map(Vec::len).sum();
    ensure!(bytes <= MAX_BYTES, "the tokens of its vocabulary have {bytes} bytes");
    let info = TokRxInfo::new(size, INVALID_TOKEN);
    let trie = TokTrie::from(&info, &words);
    let eos: Vec<u32> = eos_tokens.iter().filter(|&token| token < size).collect();
    let trie = if eos.is_empty() { trie } else { trie.with_eos_tokens(&eos) };
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}

/// The bytes of each token; none of one that can't be part of an output.
fn words(tokenizer: &Tokenizer, vocab_size: u32) -> Vec<Vec<u8>> {
    let reader = PieceReader::new(tokenizer, PieceForm::Bytes);
    let is_special = |token| {
        let text = tokenizer.id_to_token(token);
        text.is_some_and(|text| tokenizer.get_added_vocabulary().is_special_token(&text))
    };
    let word = |token| {
        let mut word = reader.read(token);
        if is_special(token) {
            word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
        } else if word.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
            // No text has this byte, so the token is part of none.
            word.clear();
        }
        if word.len() > MAX_TOKEN { Vec::new() } else { word }
    };
    (0..vocab_size).map(word).collect()
}
