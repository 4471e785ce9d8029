//! How many tokens there were, as the server counts them.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Tokens of one request, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Counted")]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Those of them that the server had computed before.
    pub cached: u64,
    /// Tokens of the answer.
    pub answer: u64,
}

/// As OpenAI counts them.
#[derive(Deserialize)]
struct Counted {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl From<Counted> for Usage {
    fn from(counted: Counted) -> Self {
        let details = counted.prompt_tokens_details;
        let cached = details.and_then(|details| details.cached_tokens).unwrap_or_default();
        Self { prompt: counted.prompt_tokens, cached, answer: counted.completion_tokens }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.cached += other.cached;
        self.answer += other.answer;
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::*;

    #[test]
    fn a_server_that_says_nothing_of_a_cache_has_none() -> Result<()> {
        let usage = |text| serde_json::from_str::<Usage>(text);
        let mut sum = usage(r#"{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}"#)?;
        assert_eq!(sum, Usage { prompt: 9, cached: 0, answer: 2 });
        let details =
            r#"{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":4}}"#;
        sum += usage(details)?;
        assert_eq!(sum, Usage { prompt: 14, cached: 4, answer: 3 });
        Ok(())
    }
}
