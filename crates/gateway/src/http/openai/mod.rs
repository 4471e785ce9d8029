//! OpenAI's dialect: chat and text completions, the list of models, and the error object.
//!
//! ```text
//! endpoint   what the two kinds of completion implement: chat, completions
//! request    a body's fields: as typed, then checked
//! answer     answers and chunks
//! logprobs   how likely tokens were, as both have it
//! error      the error object
//! operations tokenize and the like, as vLLM and llama.cpp have them
//! models     the list of models; loading and unloading, which is our addition to it
//! ```

mod answer;
mod chat;
mod completions;
mod endpoint;
mod error;
mod logprobs;
mod models;
mod operations;
mod request;

use std::marker::PhantomData;

use axum::routing::{any, get, post};
use bytes::BytesMut;

pub(super) use self::error::write_error;
use self::{answer::Answer, chat::Chat, completions::Completion, endpoint::Endpoint, request::Context};
use super::{
    dialect::{Api, Asked, Dialect, Framing},
    error::{ApiError, ErrorReport},
    generation::create,
    sse,
};
use crate::serve::Choices;

/// All of it, for the router.
pub(super) fn api() -> Api {
    Api {
        routes: [
            ("/v1/chat/completions", post(create::<OpenAi<Chat>>)),
            ("/v1/completions", post(create::<OpenAi<Completion>>)),
            ("/v1/models", get(models::list)),
            // Names may have slashes, like `organization/model`.
            ("/v1/models/{*id}", any(models::one)),
        ]
        .into_iter()
        .chain(operations::routes())
        .collect(),
        write_error,
    }
}

/// The dialect, at one of its endpoints.
struct OpenAi<E>(PhantomData<E>);

impl<E: Endpoint> Dialect for OpenAi<E> {
    type Context = Context;
    type Answer = Answer<E>;

    const FRAMING: Framing = sse::FRAMING;

    fn read(body: &[u8]) -> Result<Asked<Context>, ApiError> {
        E::read(body)
    }

    fn answer(context: Context, choices: &Choices, echo: Option<String>) -> Result<Answer<E>, ApiError> {
        Answer::new(context, choices, echo.unwrap_or_default())
    }

    fn write_error_event(out: &mut BytesMut, error: &ErrorReport) {
        error::write_event(out, error);
    }
}
