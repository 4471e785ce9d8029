//! Whether one model can draft tokens for another.
//!
//! In speculative decoding a small model proposes token ids, and the large one computes all of them in one step. An id
//! must therefore mean the same to both. The rule:
//!
//! - **Every id below the end of the shorter vocabulary has the same token in both**, and is special in both or in
//!   neither. There is no exception for the first ids.
//! - **The vocabularies' sizes differ by at most [`MAX_DIFFERENCE`] ids.** Tokens that only one of them has at its end
//!   are harmless: the draft is not asked for those that it lacks, and those that the target lacks are never accepted.
//!
//! A size is the highest id with a token, plus one: models have more rows than that, padded to a round number, and those
//! mean nothing. How a text becomes tokens need not be the same: the draft is given ids.

use std::fmt;

use protocol::message::{Answer, Failure};
use tokenizers::Tokenizer;

use super::PromptTokenizer;

/// Ids by which the sizes of two vocabularies may differ, as llama.cpp has it: families add tokens to their larger
/// models.
const MAX_DIFFERENCE: u32 = 128;

/// Where draft models are looked up: the store.
pub trait Drafts: fmt::Debug + Send + Sync {
    /// The tokenizer of the model with this name or digest.
    ///
    /// # Errors
    /// There is none, or it can't be used.
    fn tokenizer(&self, name: &str) -> Result<PromptTokenizer, Failure>;
}

/// Whether the model of `draft` can draft for that of `target`: an [`Answer::DraftCheck`].
pub(super) fn compare(target: &Tokenizer, draft: &Tokenizer) -> Answer {
    let (target, draft) = (Vocabulary::new(target), Vocabulary::new(draft));
    let reason = difference(&target, &draft);
    Answer::DraftCheck {
        compatible: reason.is_none(),
        reason,
        vocab_size: target.size,
        draft_vocab_size: draft.size,
    }
}

/// Whether one model can draft for another.
///
/// # Errors
/// It can't: why, for a person.
pub fn check_draft(target: &PromptTokenizer, draft: &PromptTokenizer) -> Result<(), String> {
    let (target, draft) = (Vocabulary::new(target.tokenizer()), Vocabulary::new(draft.tokenizer()));
    difference(&target, &draft).map_or(Ok(()), Err)
}

/// A tokenizer's tokens.
struct Vocabulary<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids with a token, in order.
    ids: Vec<u32>,
    size: u32,
}

impl<'a> Vocabulary<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        let mut ids: Vec<u32> = tokenizer.get_vocab(true).into_values().collect();
        ids.sort_unstable();
        ids.dedup();
        let size = ids.last().map_or(0, |last| last.saturating_add(1));
        Self { tokenizer, ids, size }
    }

    /// The token of an id, and whether it is special.
    fn token(&self, id: u32) -> Option<(String, bool)> {
        let token = self.tokenizer.id_to_token(id)?;
        let special = self.tokenizer.get_added_vocabulary().is_special_token(&token);
        Some((token, special))
    }
}

/// The first thing in which they differ too much, for a person.
fn difference(target: &Vocabulary<'_>, draft: &Vocabulary<'_>) -> Option<String> {
    let (size, draft_size) = (target.size, draft.size);
    if size.abs_diff(draft_size) > MAX_DIFFERENCE {
        return Some(format!(
            "the model's vocabulary has {size} tokens and the draft model's {draft_size}; they may differ by \
             {MAX_DIFFERENCE} at most"
        ));
    }
    let both = size.min(draft_size);
    let differs = |id: &u32| *id < both && target.token(*id) != draft.token(*id);
    let first = |vocabulary: &Vocabulary<'_>| vocabulary.ids.iter().copied().find(differs);
    let id = first(target).into_iter().chain(first(draft)).min()?;
    Some(match (target.token(id), draft.token(id)) {
        (Some((token, special)), Some((other, _))) if token == other => {
            let (yes, no) =
                if special { ("the model", "the draft model") } else { ("the draft model", "the model") };
            format!("token {id}, {}, is special in {yes} and not in {no}", shown(&token))
        }
        (token, other) => {
            let what =
                |token: Option<(String, bool)>| token.map_or("nothing".into(), |(text, _)| shown(&text));
            format!("token {id} is {} in the model and {} in the draft model", what(token), what(other))
        }
    })
}

/// A token for a message: hardly any is longer.
fn shown(token: &str) -> String {
    format!("{:?}", &token[..token.floor_char_boundary(64)])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Map, Value, json};

    use super::{super::samples, *};

    /// Words `w0`, `w1`, … and a special token behind them.
    fn vocabulary(words: u32) -> Value {
        let vocab: Map<String, Value> = (0..words).map(|id| (format!("w{id}"), json!(id))).collect();
        let mut tokenizer = samples::words();
        tokenizer["model"]["vocab"] = Value::Object(vocab);
        tokenizer["model"]["unk_token"] = "w0".into();
        tokenizer["added_tokens"] = json!([]);
        tokenizer
    }

    fn special(tokenizer: &mut Value, id: u32, content: &str, special: bool) {
        let token = json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special});
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    }

    fn check(target: &Value, draft: &Value) -> Result<(), String> {
        let (target, draft) = (samples::load(target), samples::load(draft));
        match compare(target.tokenizer(), draft.tokenizer()) {
            Answer::DraftCheck { compatible, reason, .. } => {
                assert_eq!(compatible, reason.is_none());
                reason.map_or(Ok(()), Err)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_model_can_draft_for_itself() {
        for tokenizer in [samples::byte_level(), samples::sentencepiece(), samples::words(), samples::small()]
        {
            check(&tokenizer, &tokenizer).unwrap();
        }
    }

    #[test]
    fn a_few_more_tokens_at_the_end_of_either_do_no_harm() {
        let (small, large, larger) = (vocabulary(50), vocabulary(50 + 128), vocabulary(50 + 129));
        check(&small, &large).unwrap();
        check(&large, &small).unwrap();
        for (target, draft) in [(&small, &larger), (&larger, &small)] {
            let reason = check(target, draft).unwrap_err();
            assert!(reason.contains("50") && reason.contains("179"), "{reason}");
        }
    }

    #[test]
    fn an_id_with_another_token_is_named() {
        let mut other = vocabulary(50);
        let vocab = other["model"]["vocab"].as_object_mut().unwrap();
        vocab.remove("w3");
        vocab.insert("other".into(), 3.into());
        let reason = check(&vocabulary(50), &other).unwrap_err();
        assert_eq!(reason, "token 3 is \"w3\" in the model and \"other\" in the draft model");
        other["model"]["vocab"].as_object_mut().unwrap().remove("other");
        let reason = check(&other, &vocabulary(50)).unwrap_err();
        assert_eq!(reason, "token 3 is nothing in the model and \"w3\" in the draft model");
    }

    #[test]
    fn special_tokens_have_to_be_special_in_both() {
        let (mut one, mut other) = (vocabulary(50), vocabulary(50));
        special(&mut one, 50, "<end>", true);
        special(&mut other, 50, "<end>", false);
        let reason = check(&one, &other).unwrap_err();
        assert_eq!(reason, "token 50, \"<end>\", is special in the model and not in the draft model");
        let reason = check(&other, &one).unwrap_err();
        assert_eq!(reason, "token 50, \"<end>\", is special in the draft model and not in the model");
    }

    #[test]
    fn an_absurd_id_costs_no_time() {
        let mut absurd = vocabulary(50);
        absurd["model"]["vocab"]["far"] = u32::MAX.into();
        assert!(check(&absurd, &vocabulary(50)).is_err());
        check(&absurd, &absurd).unwrap();
    }
}
