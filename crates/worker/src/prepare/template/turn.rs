//! The token that a template writes behind an answer. A model whose settings name another end token, as those of its base
//! model do, would go on after it.

use serde_json::json;
use tokenizers::Tokenizer;

use super::{Chat, ChatTemplates};
use crate::engine::EosTokens;

/// An answer that no template changes, and that is in none.
const ANSWER: &str = "Quokkas7";

impl ChatTemplates {
    /// The special token with which the template ends an answer, if none of the tokens behind it is one of `ends`. Tokens
    /// from `vocab_size` on can't be generated.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer, ends: &EosTokens, vocab_size: u32) -> Option<u32> {
        let messages = [("user", "Hi"), ("assistant", ANSWER)];
        let messages = messages.map(|(role, content)| json!({"role": role, "content": content})).to_vec();
        let chat = Chat { messages, add_generation_prompt: false, ..Chat::default() };
        let text = self.render_chat(&chat).ok()?;
        let (_, behind) = text.rsplit_once(ANSWER)?;
        let behind = behind.trim_start();
        let tokens = tokenizer.encode_fast(behind, false).ok()?;
        if tokens.get_ids().iter().any(|token| ends.contains(*token)) {
            return None;
        }
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let first = added.iter().filter(|(id, token)| token.special && **id < vocab_size);
        let first =
            first.filter(|(_, token)| !token.content.is_empty() && behind.starts_with(&token.content));
        first.max_by_key(|(_, token)| token.content.len()).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::prepare::{ChatTemplate, samples, template::SpecialTokens};

    #[test]
    fn what_the_template_writes_behind_an_answer_ends_it() {
        let tokenizer = samples::load(&samples::byte_level());
        let tokenizer = tokenizer.tokenizer();
        let id = |text: &str| tokenizer.token_to_id(text).unwrap();
        let of = |source: &str, ends: Vec<u32>, vocab_size: u32| {
            let templates = ChatTemplates::from(ChatTemplate::new(source, SpecialTokens::new()));
            templates.end_of_turn(tokenizer, &EosTokens::new(ends), vocab_size)
        };
        let chat = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
        let (end, other) = (id("<|im_end|>"), id("</s>"));
        assert_eq!(of(chat, vec![other], u32::MAX), Some(end));
        assert_eq!(of(chat, vec![], u32::MAX), Some(end));
        assert_eq!(of(chat, vec![end], u32::MAX), None);
        assert_eq!(of(chat, vec![other], end), None, "the model does not have it");
        // The known one comes later, or nothing comes, or words.
        for source in [
            "{% for m in messages %}{{ m.content }}<|im_end|></s>{% endfor %}",
            "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}",
            "{% for m in messages %}{{ m.content }} and <|im_end|>{% endfor %}",
            "{{ raise_exception('no') }}",
            "{% if %}",
        ] {
            assert_eq!(of(source, vec![other], u32::MAX), None, "{source}");
        }
    }
}
