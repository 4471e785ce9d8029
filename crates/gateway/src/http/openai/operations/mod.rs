//! Operations: tokenize, detokenize, apply a template, check a draft model, in the forms of vLLM and llama.cpp, whose servers
//! have them; and OpenAI's embeddings.
//!
//! ```text
//! body ─ read ─► OperationRequest ─ serve ─► Answered ─ write ─► JSON
//! ```

mod apply_template;
mod check_draft;
mod detokenize;
mod embeddings;
mod fields;
mod inputs;
mod tokenize;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, post},
};
use serde::Serialize;
use tokio::{task::spawn_blocking, time::Instant};

use self::{
    apply_template::ApplyTemplate, check_draft::CheckDraft, detokenize::Detokenize, tokenize::Tokenize,
};
use crate::{
    http::{
        app::App,
        body,
        error::ApiError,
        json::{Text, field},
        terms::Terms,
    },
    serve::operation::{Answer, Answered, OperationKind, OperationRequest},
};

/// One kind of operation.
trait Endpoint: 'static {
    /// In what form the answer is wanted.
    type Form: Send + 'static;

    /// What a body asks for.
    ///
    /// # Errors
    /// If the body is not a request of this endpoint.
    fn read(body: &[u8]) -> Result<Asked<Self::Form>, ApiError>;

    /// The JSON of an answer.
    ///
    /// # Errors
    /// If the answer is not of this kind, which the core rules out.
    fn write(form: Self::Form, answered: Answered) -> Result<Vec<u8>, ApiError>;
}

/// A request, understood.
#[derive(Debug)]
struct Asked<F> {
    /// The model's name; `None`: the only one.
    model: Option<String>,
    kind: OperationKind,
    form: F,
}

/// Answers of more bytes are written on another thread: others wait for their turn on this one.
const LARGE_ANSWER: usize = 64 << 10;

/// Their paths and what answers on them.
pub(super) fn routes() -> Vec<(&'static str, MethodRouter<App>)> {
    vec![
        ("/v1/tokenize", post(operate::<Tokenize>)),
        ("/tokenize", post(operate::<Tokenize>)),
        ("/v1/detokenize", post(operate::<Detokenize>)),
        ("/detokenize", post(operate::<Detokenize>)),
        ("/apply-template", post(operate::<ApplyTemplate>)),
        ("/v1/check_draft", post(operate::<CheckDraft>)),
        ("/v1/embeddings", post(embeddings::embed)),
    ]
}

async fn operate<E: Endpoint>(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let terms = Terms::of(request.headers(), request.extensions())?;
    // By the clock of the timers that a deadline sets.
    let (urgent, deadline) = (terms.is_urgent(), terms.deadline(Instant::now().into_std()));
    let body = body::read(&app, request, app.max_body_bytes()).await?;
    let read = move |body: &[u8]| {
        let Asked { model, kind, form } = E::read(body)?;
        Ok((OperationRequest { model, kind, urgent, deadline }, form))
    };
    let ((request, form), charge) = body::parse(body, read, |(request, _)| request.bytes()).await?;
    let answered = app.operator.operate(request).await?;
    drop(charge);
    let json = if size(&answered.answer) > LARGE_ANSWER {
        spawn_blocking(move || E::write(form, answered)).await.map_err(|_| ApiError::Internal)??
    } else {
        E::write(form, answered)?
    };
    Ok(reply(json))
}

/// An answer of this JSON.
fn reply(json: Vec<u8>) -> Response {
    let media_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (media_type, Body::from(json)).into_response()
}

/// About the bytes of an answer.
fn size(answer: &Answer) -> usize {
    match answer {
        Answer::Tokens(tokens) => size_of_val(tokens.as_slice()),
        Answer::Text(text) => text.len(),
        Answer::Pieces(pieces) => pieces.len() * size_of::<u64>(),
        Answer::Count(_) | Answer::DraftCheck { .. } | Answer::Embeddings(_) => 0,
    }
}

/// A model's name that has to be there.
fn required_model(model: Option<Text>) -> Result<String, ApiError> {
    optional_model(model).ok_or_else(|| field("model", "is required: name one of /v1/models"))
}

/// A model's name. An empty one is none, as elsewhere.
fn optional_model(model: Option<Text>) -> Option<String> {
    model.map(|Text(model)| model).filter(|model| !model.is_empty())
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(value).map_err(|_| ApiError::Internal)
}

#[cfg(test)]
mod tests;
