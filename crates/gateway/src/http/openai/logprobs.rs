//! How likely tokens were, in the forms of chats and of completions.

use std::{borrow::Cow, fmt::Write};

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::serve::{TokenLogprob, TokenLogprobs};

/// `logprobs` of a chat's choice.
#[derive(Serialize)]
pub(super) struct ChatLogprobs<'a> {
    content: Vec<ChatToken<'a>>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct ChatToken<'a> {
    #[serde(flatten)]
    chosen: ChatCandidate<'a>,
    top_logprobs: Vec<ChatCandidate<'a>>,
}

#[derive(Serialize)]
struct ChatCandidate<'a> {
    token: Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
}

/// `logprobs` of a completion's choice.
#[derive(Serialize)]
pub(super) struct CompletionLogprobs<'a> {
    tokens: Vec<Cow<'a, str>>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<ByText<'a>>,
    /// In characters, of the choice's text.
    text_offset: Vec<usize>,
}

/// Tokens by their texts: of two with the same text, the more likely one.
struct ByText<'a>(Vec<(Cow<'a, str>, f32)>);

impl<'a> ChatLogprobs<'a> {
    pub(super) fn of(tokens: &'a [TokenLogprobs]) -> Self {
        let candidate = |it: &'a TokenLogprob| ChatCandidate {
            token: String::from_utf8_lossy(&it.bytes),
            logprob: it.logprob,
            bytes: &it.bytes,
        };
        let token = |it: &'a TokenLogprobs| ChatToken {
            chosen: candidate(&it.chosen),
            top_logprobs: it.top.iter().map(candidate).collect(),
        };
        Self { content: tokens.iter().map(token).collect(), refusal: None }
    }
}

impl<'a> CompletionLogprobs<'a> {
    /// Of tokens that follow `offset` characters of text.
    pub(super) fn of(tokens: &'a [TokenLogprobs], mut offset: usize) -> Self {
        let offsets = tokens.iter().map(|token| {
            let begin = offset;
            offset += characters(token);
            begin
        });
        Self {
            text_offset: offsets.collect(),
            tokens: tokens.iter().map(|it| text(&it.chosen)).collect(),
            token_logprobs: tokens.iter().map(|it| it.chosen.logprob).collect(),
            top_logprobs: tokens.iter().map(ByText::of).collect(),
        }
    }
}

impl<'a> ByText<'a> {
    /// The most likely ones, and the chosen one in any case.
    fn of(TokenLogprobs { chosen, top }: &'a TokenLogprobs) -> Self {
        let mut all: Vec<(Cow<'a, str>, f32)> = Vec::with_capacity(top.len() + 1);
        for token in top.iter().chain([chosen]) {
            let text = text(token);
            if all.iter().all(|(other, _)| *other != text) {
                all.push((text, token.logprob));
            }
        }
        Self(all)
    }
}

impl Serialize for ByText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (text, logprob) in &self.0 {
            map.serialize_entry(text, logprob)?;
        }
        map.end()
    }
}

/// How many characters of a text the token begins: one that goes on with a character begins none.
pub(super) fn characters(token: &TokenLogprobs) -> usize {
    let TokenLogprob { special, bytes, .. } = &token.chosen;
    let begins = |byte: &&u8| **byte & 0b1100_0000 != 0b1000_0000;
    if *special { 0 } else { bytes.iter().filter(begins).count() }
}

/// A token's text; of one that is a part of a character its bytes, as OpenAI writes them: nothing else tells them apart.
fn text(token: &TokenLogprob) -> Cow<'_, str> {
    match std::str::from_utf8(&token.bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let mut text = String::from("bytes:");
            for byte in &token.bytes {
                // Writing to a text does not fail.
                let _ = write!(text, "\\x{byte:02x}");
            }
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn likely(bytes: &[u8], logprob: f32) -> TokenLogprob {
        TokenLogprob { token: 7, logprob, special: bytes == b"</s>", bytes: bytes.into() }
    }

    fn tokens() -> Vec<TokenLogprobs> {
        let of = |chosen: &TokenLogprob, top: &[TokenLogprob]| TokenLogprobs {
            chosen: chosen.clone(),
            top: top.to_vec(),
        };
        let (euro, rest) = (likely(b" \xe2", -0.5), likely(b"\x82\xac", -0.25));
        let (a, b) = (likely(b"a", -1.0), likely(b"b", -2.0));
        vec![
            of(&euro, std::slice::from_ref(&euro)),
            of(&rest, std::slice::from_ref(&a)),
            of(&b, &[a.clone(), likely(b"a", -1.5)]),
            of(&likely(b"</s>", -0.125), &[]),
        ]
    }

    #[test]
    fn a_chat_lists_tokens_with_their_bytes() {
        let tokens = tokens();
        let json = serde_json::to_value(ChatLogprobs::of(&tokens[1..3])).unwrap();
        let a = |logprob| json!({"token": "a", "logprob": logprob, "bytes": [97]});
        assert_eq!(
            json,
            json!({"refusal": null, "content": [
                {"token": "\u{fffd}\u{fffd}", "logprob": -0.25, "bytes": [0x82, 0xac], "top_logprobs": [a(-1.0)]},
                {"token": "b", "logprob": -2.0, "bytes": [98], "top_logprobs": [a(-1.0), a(-1.5)]},
            ]})
        );
    }

    #[test]
    fn a_completion_has_a_list_for_each_kind_of_value() {
        let tokens = tokens();
        let json = serde_json::to_value(CompletionLogprobs::of(&tokens, 10)).unwrap();
        assert_eq!(
            json,
            json!({
                "tokens": ["bytes:\\x20\\xe2", "bytes:\\x82\\xac", "b", "</s>"],
                "token_logprobs": [-0.5, -0.25, -2.0, -0.125],
                "top_logprobs": [
                    {"bytes:\\x20\\xe2": -0.5},
                    {"a": -1.0, "bytes:\\x82\\xac": -0.25},
                    {"a": -1.0, "b": -2.0},
                    {"</s>": -0.125},
                ],
                "text_offset": [10, 12, 12, 13],
            })
        );
    }
}
