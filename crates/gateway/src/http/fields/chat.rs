//! Fields of `/v1/chat/completions`.

use protocol::message::Prompt;

use super::{Checked, Endpoint, check::field, message, parse, request::Request};
use crate::http::error::ApiError;

/// A checked chat request from a body.
pub(crate) fn read(body: &[u8]) -> Result<Checked, ApiError> {
    let mut request: Request = parse(body)?;
    if request.prompt.is_some() {
        return Err(field("prompt", "is a field of /v1/completions; send `messages`"));
    }
    let messages = request.messages.take();
    let adds_special_tokens = false; // The template has them.
    request.check(Endpoint { default_max_tokens: None, adds_special_tokens }, || {
        message::check_all(messages).map(Prompt::Chat)
    })
}
