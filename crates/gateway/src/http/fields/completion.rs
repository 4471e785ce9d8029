//! Fields of `/v1/completions`.

use protocol::message::Prompt;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Checked, CommonFields,
    check::{field, is_filled, refuse, tokens, unsupported},
    parse,
};
use crate::http::error::ApiError;

/// As typed, beside the [`CommonFields`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompletionFields {
    prompt: Value,
    echo: Option<bool>,
    suffix: Value,
    best_of: Option<u64>,
}

/// OpenAI's default for this endpoint.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// A checked completion request from a body.
pub(crate) fn read(body: &[u8]) -> Result<Checked, ApiError> {
    let common: CommonFields = parse(body)?;
    let fields: CompletionFields = parse(body)?;
    if fields.echo == Some(true) {
        return Err(unsupported("echo", "repeating the prompt"));
    }
    refuse("suffix", &fields.suffix, is_filled, "filling in before a suffix")?;
    match fields.best_of {
        None | Some(1) => {}
        Some(0) => return Err(field("best_of", "must be at least 1")),
        Some(n) => return Err(unsupported("best_of", format!("choosing the best of {n}"))),
    }
    let max_tokens = tokens("max_tokens", common.max_tokens)?.unwrap_or(DEFAULT_MAX_TOKENS);
    common.check(prompt(&fields.prompt)?, Some(max_tokens))
}

/// Text, token ids, or a list with one of either.
fn prompt(value: &Value) -> Result<Prompt, ApiError> {
    match value {
        Value::Null => Err(field("prompt", "is required")),
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(list) => match list.as_slice() {
            [] => Err(field("prompt", "must not be an empty list")),
            [only @ (Value::String(_) | Value::Array(_))] => match prompt(only) {
                Ok(Prompt::Chat(_)) | Err(_) => Err(wrong()),
                prompt => prompt,
            },
            [Value::String(_) | Value::Array(_), ..] => {
                Err(unsupported("prompt", "a list of several prompts"))
            }
            ids => {
                let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
                ids.iter().map(id).collect::<Option<_>>().map(Prompt::Tokens).ok_or_else(wrong)
            }
        },
        _ => Err(wrong()),
    }
}

fn wrong() -> ApiError {
    field("prompt", "must be a string or a list of token ids")
}
