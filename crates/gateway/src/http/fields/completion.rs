//! Fields of `/v1/completions`.

use super::{Checked, Endpoint, check::field, parse, prompt::TypedPrompt, request::Request};
use crate::http::error::ApiError;

/// OpenAI's default for this endpoint.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// A checked completion request from a body.
pub(crate) fn read(body: &[u8]) -> Result<Checked, ApiError> {
    let mut request: Request = parse(body)?;
    if request.messages.is_some() {
        return Err(field("messages", "is a field of /v1/chat/completions; send `prompt`"));
    }
    let prompt = request.prompt.take();
    let endpoint = Endpoint { default_max_tokens: Some(DEFAULT_MAX_TOKENS), adds_special_tokens: true };
    request.check(endpoint, || TypedPrompt::check(prompt))
}
