//! What a request will cost, before its prompt was tokenized. Pure.

use super::request::{GenerateRequest, Prompt};

/// Bytes of text for one token: a little less than English has, more than most others.
const BYTES_PER_TOKEN: usize = 4;

/// Tokens that are assumed of an answer without a limit.
const UNLIMITED: u64 = 256;

/// Most tokens that are assumed of an answer: limits are often far above what comes.
const MOST: u64 = 4096;

/// Tokens of prompt and answer, estimated. Exact only for a prompt of token ids.
pub(super) fn tokens(request: &GenerateRequest) -> u64 {
    let prompt = match &request.prompt {
        Prompt::Text(text) => text.len() / BYTES_PER_TOKEN,
        Prompt::Tokens(ids) => ids.len(),
        Prompt::Chat(messages) => {
            let bytes = messages.iter().map(|it| it.role.len() + it.content.len()).sum::<usize>();
            // A template writes some tokens around each.
            bytes / BYTES_PER_TOKEN + 4 * messages.len()
        }
    };
    let answer = request.max_tokens.map_or(UNLIMITED, u64::from).min(MOST);
    (prompt as u64 + answer).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{ChatMessage, request::plain};

    #[test]
    fn prompt_and_answer_count() {
        let with = |prompt, max_tokens| GenerateRequest { prompt, max_tokens, ..plain("m") };
        let message = ChatMessage::new("user", "x".repeat(396));
        for (prompt, max_tokens, expected) in [
            (Prompt::Text("x".repeat(400)), Some(10), 110),
            (Prompt::Tokens(vec![0; 400]), Some(10), 410),
            (Prompt::Chat(vec![message]), Some(10), 114),
            (Prompt::Text(String::new()), None, 256),
            (Prompt::Text(String::new()), Some(u32::MAX), 4096),
        ] {
            assert_eq!(tokens(&with(prompt, max_tokens)), expected);
        }
    }
}
