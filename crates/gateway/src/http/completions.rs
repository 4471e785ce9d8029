//! `POST /v1/completions`.

use std::time::Instant;

use axum::{
    extract::{Request, State},
    response::Response,
};
use protocol::message::FinishReason;
use serde::Serialize;

use super::{
    App, body,
    error::ApiError,
    fields,
    generation::{Shape, generate, reason_word},
};

/// Continues a text.
pub(super) async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let body = body::read(request, app.max_body_bytes).await?;
    generate::<Completion>(&app, fields::completion::read(&body)?, arrived).await
}

struct Completion;

#[derive(Serialize)]
struct Choice<'a> {
    text: &'a str,
    index: u32,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

impl Shape for Completion {
    const ID_PREFIX: &'static str = "cmpl-";
    const OBJECT: &'static str = "text_completion";
    const CHUNK_OBJECT: &'static str = "text_completion";

    fn opening() -> Option<impl Serialize> {
        None::<()>
    }

    fn piece(text: &str, reason: Option<FinishReason>) -> impl Serialize {
        Choice { text, index: 0, logprobs: None, finish_reason: reason.map(reason_word) }
    }

    fn whole(text: &str, reason: FinishReason) -> impl Serialize {
        Self::piece(text, Some(reason))
    }
}
