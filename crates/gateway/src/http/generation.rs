//! The way of a request for text, the same in every dialect: read, serve, answer.

use std::time::Instant;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use tracing::Instrument;

use super::{
    app::App,
    body,
    budget::Charge,
    dialect::{Answer, Asked, Dialect},
    echo::Echo,
    error::ApiError,
    json::field,
    request_id::RequestId,
    stream::{self, Opened, Source},
    terms::Terms,
};
use crate::{
    serve::{Correlation, GenerateRequest, TraceContext},
    trace,
};

/// What is to be generated.
struct Wanted {
    request: GenerateRequest,
    choices: usize,
    echo: bool,
}

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
    let correlation = Correlation {
        request_id: request_id.clone().map(|RequestId(id)| id),
        trace: request.extensions().get::<TraceContext>().copied(),
    };
    let body = body::read(&app, request, app.max_body_bytes()).await?;
    let size = |asked: &Asked<D::Context>| {
        asked.request.bytes().saturating_mul(asked.choices + usize::from(asked.echo))
    };
    let (Asked { mut request, choices, echo, stream, timeout, draft_model, context }, charge) =
        body::parse(body, D::read, size).await?;
    if let Some(draft) = draft_model {
        check_draft(&app, &request.model, &draft)?;
    }
    terms.apply(&mut request, timeout, arrived);
    request.correlation = correlation;
    let settings = stream::Settings {
        keepalive: app.sse_keepalive(),
        deadline: request.deadline.map(Into::into),
        request_id,
        metrics: app.metrics.clone(),
    };
    let opening =
        open::<D>(app, Wanted { request, choices, echo }, context, charge, arrived).in_current_span();
    if stream {
        let source = Source::start::<D>(Box::pin(opening), settings.keepalive).await?;
        return Ok(stream::respond::<D>(source, settings));
    }
    let Opened { choices, answer, _charge } = opening.await?;
    let outputs = choices.collect().instrument(trace::respond()).await?;
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((json, Body::from(answer.full(&outputs))).into_response())
}

/// A draft model is loaded with its model, so a request can only name the one that is configured.
fn check_draft(app: &App, model: &str, draft: &str) -> Result<(), ApiError> {
    if app.models.is_draft(draft, model) {
        return Ok(());
    }
    let has = app
        .models
        .draft_of(model)
        .map_or_else(|| "has none".to_owned(), |configured| format!("has `{configured}`"));
    Err(field(
        "draft_model",
        format!(
            "a draft model is chosen by the server's setting `speculation.draft_models`, by which `{model}` {has}"
        ),
    ))
}

/// Waits for the worker to accept the prompt. `charge` is for the memory that the request takes until the
/// generations end: another worker may have to continue it.
async fn open<D: Dialect>(
    app: App,
    wanted: Wanted,
    context: D::Context,
    charge: Charge,
    arrived: Instant,
) -> Result<Opened<D::Answer>, ApiError> {
    let Wanted { request, choices, echo } = wanted;
    let echo = if echo { Echo::of(&request) } else { None };
    let choices = app.dispatcher.generate(request, choices, arrived).await?;
    let echo = match echo {
        Some(echo) => Some(echo.text(&app).await?),
        None => None,
    };
    let answer = D::answer(context, &choices, echo)?;
    Ok(Opened { choices, answer, _charge: charge })
}
