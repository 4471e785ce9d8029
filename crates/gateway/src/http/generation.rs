//! What chat and text completions have in common: the way from a checked request to its answer.

use std::{
    pin::Pin,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use protocol::message::{FinishReason, StreamEventKind, Usage};
use serde::Serialize;
use tokio::{task::spawn_blocking, time::timeout};
use tracing::{Instrument, debug_span};

use super::{
    App,
    body::{self, Whole},
    budget::Charge,
    error::ApiError,
    fields::Checked,
    request_id::RequestName,
    sse,
};
use crate::{config::REQUEST_MEMORY_FACTOR, serve::admission::Permit, worker::streams::Stream};

/// What differs between the two kinds of completion.
pub(super) trait Shape: Send + Sync + Unpin + 'static {
    /// Before the random part of an id.
    const ID_PREFIX: &'static str;
    /// `object` of a whole answer.
    const OBJECT: &'static str;
    /// `object` of a streamed piece.
    const CHUNK_OBJECT: &'static str;
    /// What is asked for.
    fn read(body: &[u8]) -> Result<Checked, ApiError>;
    /// The choice of the chunk that opens a stream, if there is one.
    fn opening() -> Option<impl Serialize>;
    /// The choice of a streamed piece. The last one has a reason and no text.
    fn piece(text: &str, reason: Option<FinishReason>) -> impl Serialize;
    /// The choice of a whole answer.
    fn whole(text: &str, reason: FinishReason) -> impl Serialize;
}

/// What all objects of one answer say alike.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: String,
}

/// An answer, or a piece of one.
#[derive(Serialize)]
pub(super) struct Object<'a, C> {
    #[serde(flatten)]
    pub(super) head: &'a Head,
    pub(super) choices: &'a [C],
    /// `None` leaves the field out, `Some(None)` is a null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<UsageJson>>,
}

/// OpenAI's usage object.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct UsageJson {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PromptTokensDetails {
    cached_tokens: u32,
}

impl From<Usage> for UsageJson {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
            prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
        }
    }
}

/// OpenAI's word for it.
pub(super) fn reason_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// A generation that the worker has accepted.
pub(super) struct Opened {
    pub(super) events: Stream,
    pub(super) permit: Permit,
    pub(super) head: Head,
}

/// A generation on its way to that.
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<Opened, ApiError>> + Send>>;

/// Checks, admits, routes and answers. An error comes before any header, also for a streamed answer, unless the
/// request had to wait for so long that something had to be sent.
pub(super) async fn create<S: Shape>(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let name = request.extensions().get::<RequestName>().cloned();
    let body = body::read(&app, request, app.max_body_bytes).await?;
    let (checked, charge) = parse::<S>(body).await?;
    let (stream, include_usage) = (checked.stream, checked.include_usage);
    let keepalive = app.sse_keepalive;
    let mut opening: Opening = Box::pin(open::<S>(app, checked, charge, arrived).in_current_span());
    if stream {
        let source = match timeout(keepalive, &mut opening).await {
            Ok(opened) => sse::Source::Open(opened?),
            Err(_elapsed) => sse::Source::Opening(opening),
        };
        return Ok(sse::respond::<S>(source, sse::Settings { include_usage, keepalive, name }));
    }
    let Opened { events, permit, head } = opening.await?;
    let answer = collect::<S>(events, &head).instrument(debug_span!("respond")).await;
    drop(permit);
    answer
}

/// From here on parsing would keep other requests waiting for their turn on this thread.
const LARGE_BODY: usize = 64 << 10;

async fn parse<S: Shape>(Whole { bytes, mut charge }: Whole) -> Result<(Checked, Charge), ApiError> {
    charge.resize(bytes.len().saturating_mul(REQUEST_MEMORY_FACTOR as usize))?;
    let is_large = bytes.len() >= LARGE_BODY;
    // The charge goes along: the memory is in use until the thread is done, whether the client waits or not.
    let read = move || {
        let checked = S::read(&bytes)?;
        drop(bytes);
        charge.resize(checked.bytes())?;
        Ok((checked, charge))
    };
    if is_large { spawn_blocking(read).await.map_err(|_| ApiError::Internal)? } else { read() }
}

/// Finds a place and a worker, and waits until the worker has accepted the prompt.
async fn open<S: Shape>(
    app: App,
    checked: Checked,
    charge: Charge,
    arrived: Instant,
) -> Result<Opened, ApiError> {
    let (model, stream) = (checked.model.clone(), checked.stream);
    // An unknown model, or one without workers, need not wait for a permit.
    app.router.route(&model)?;
    // A model may be asked for by its digest, too.
    let known = app.router.name_of(&model).unwrap_or_else(|| model.clone());
    let permit = app.admission.admit(&known).instrument(debug_span!("admit")).await?;
    // Workers may have come or gone while the request waited.
    let route = debug_span!("route").in_scope(|| app.router.route(&model))?;
    let generate = checked.into_generate(app.next_id(), app.credit_chunks);
    let mut events = route.link.open(generate, arrived)?;
    prepared(&mut events).await?;
    drop(charge);
    let head = Head {
        id: format!("{}{}", S::ID_PREFIX, random_id()?),
        object: if stream { S::CHUNK_OBJECT } else { S::OBJECT },
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        model,
        system_fingerprint: format!("fp_{}", route.info.digest.get(..12).unwrap_or(&route.info.digest)),
    };
    Ok(Opened { events, permit, head })
}

/// Waits until the worker has accepted the prompt.
async fn prepared(events: &mut Stream) -> Result<(), ApiError> {
    match events.next().await {
        Some(StreamEventKind::Prepared { .. }) => Ok(()),
        Some(StreamEventKind::Failed(failure)) => Err(failure.into()),
        // A worker that begins otherwise breaks the protocol.
        Some(StreamEventKind::Delta(_) | StreamEventKind::Finished { .. }) | None => Err(ApiError::Internal),
    }
}

async fn collect<S: Shape>(mut events: Stream, head: &Head) -> Result<Response, ApiError> {
    let mut text = String::new();
    loop {
        match events.next().await {
            Some(StreamEventKind::Delta(chunk)) => text.push_str(&chunk.text),
            Some(StreamEventKind::Finished { reason, usage }) => {
                let choices = &[S::whole(&text, reason)];
                let object = Object { head, choices, usage: Some(Some(usage.into())) };
                return Ok(Json(object).into_response());
            }
            Some(StreamEventKind::Failed(failure)) => return Err(failure.into()),
            Some(StreamEventKind::Prepared { .. }) | None => return Err(ApiError::Internal),
        }
    }
}

fn random_id() -> Result<String, ApiError> {
    Ok(format!("{:016x}{:016x}", getrandom::u64()?, getrandom::u64()?))
}
