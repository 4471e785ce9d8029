//! The way of a request for text, the same in every dialect: read, serve, answer.

use std::time::Instant;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use tokio::task::spawn_blocking;
use tracing::{Instrument, debug_span};

use super::{
    app::App,
    body::{self, FullBody},
    budget::Charge,
    dialect::{Answer, Asked, Dialect},
    error::ApiError,
    request_id::RequestId,
    stream::{self, Opened, Source},
    terms::Terms,
};
use crate::{config::REQUEST_MEMORY_FACTOR, serve::GenerateRequest};

/// Answers a request for text. An error comes before any header, also for a streamed answer, unless a keep-alive
/// had to be sent first.
pub(super) async fn create<D: Dialect>(
    State(app): State<App>,
    request: Request,
) -> Result<Response, ApiError> {
    // By the clock of the timers that its deadline sets.
    let arrived = tokio::time::Instant::now().into_std();
    let request_id = request.extensions().get::<RequestId>().cloned();
    let terms = Terms::of(request.headers(), request.extensions())?;
    let body = body::read(&app, request, app.max_body_bytes()).await?;
    let (Asked { mut request, stream, timeout, context }, charge) = read::<D>(body).await?;
    terms.apply(&mut request, timeout, arrived);
    let settings =
        stream::Settings { keepalive: app.sse_keepalive(), request_id, metrics: app.metrics.streams.clone() };
    let opening = open::<D>(app, request, context, charge, arrived).in_current_span();
    if stream {
        let source = Source::start::<D>(Box::pin(opening), settings.keepalive).await?;
        return Ok(stream::respond::<D>(source, settings));
    }
    let Opened { generation, answer, _charge } = opening.await?;
    let output = generation.collect().instrument(debug_span!("respond")).await?;
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((json, Body::from(answer.full(&output))).into_response())
}

/// From here on parsing would keep other requests waiting for their turn on this thread.
const LARGE_BODY: usize = 64 << 10;

async fn read<D: Dialect>(
    FullBody { bytes, mut charge }: FullBody,
) -> Result<(Asked<D::Context>, Charge), ApiError> {
    charge.resize(bytes.len().saturating_mul(REQUEST_MEMORY_FACTOR as usize))?;
    let is_large = bytes.len() >= LARGE_BODY;
    // The charge goes along: the memory is in use until the thread is done, whether the client waits or not.
    let read = move || {
        let asked = D::read(&bytes)?;
        drop(bytes);
        charge.resize(asked.request.bytes())?;
        Ok((asked, charge))
    };
    if is_large { spawn_blocking(read).await.map_err(|_| ApiError::Internal)? } else { read() }
}

/// Waits for the worker to accept the prompt. `charge` is for the memory that the request takes until the generation
/// ends: another worker may have to continue it.
async fn open<D: Dialect>(
    app: App,
    request: GenerateRequest,
    context: D::Context,
    charge: Charge,
    arrived: Instant,
) -> Result<Opened<D::Answer>, ApiError> {
    let generation = app.dispatcher.generate(request, arrived).await?;
    let answer = D::answer(context, &generation)?;
    Ok(Opened { generation, answer, _charge: charge })
}
