//! `POST /v1/embeddings`, as OpenAI has it: one vector for each input. Its inputs are divided into several operations, some of
//! which are under way at a time; the worker computes what comes together, of this request and of others, in one step.

use axum::{
    extract::{Request, State},
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Serialize, Serializer, ser::SerializeSeq};
use tokio::{task::spawn_blocking, time::Instant};

use super::{fields::EmbeddingFields, json, reply, required_model};
use crate::{
    http::{
        app::App,
        body,
        error::ApiError,
        json::{Text, Whole, field, parse},
        terms::Terms,
    },
    serve::{
        Prompt,
        operation::{
            Answer, EmbedInput, Embeddings, MAX_EMBED_INPUTS, OperationKind, OperationRequest, Truncation,
        },
    },
};

/// Operations of one request that are under way at a time: enough for the next inputs to be tokenized while those before are
/// computed, and few enough to leave places for others.
const TOGETHER: usize = 4;

/// How a vector is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// A list of numbers.
    Float,
    /// float32, little-endian, in base64.
    Base64,
}

/// A request, understood.
#[derive(Debug, PartialEq)]
struct Asked {
    model: String,
    inputs: Vec<EmbedInput>,
    format: Format,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Data<'a>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// The vectors in order, from all answers.
struct Data<'a> {
    answers: &'a [Embeddings],
    format: Format,
}

#[derive(Serialize)]
struct Item<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Numbers(&'a [f32]),
    Text(String),
}

pub(super) async fn embed(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let terms = Terms::of(request.headers(), request.extensions())?;
    let (urgent, deadline) = (terms.is_urgent(), terms.deadline(Instant::now().into_std()));
    let body = body::read(&app, request, app.max_body_bytes()).await?;
    let read = move |body: &[u8]| {
        let Asked { model, inputs, format } = Asked::read(body)?;
        let request = |input| {
            let (model, kind) = (Some(model.clone()), OperationKind::Embed(input));
            OperationRequest { model, kind, urgent, deadline }
        };
        let requests: Vec<OperationRequest> = inputs.into_iter().map(request).collect();
        Ok((requests, model, format))
    };
    let size = |(requests, ..): &(Vec<OperationRequest>, String, Format)| {
        requests.iter().map(OperationRequest::bytes).sum()
    };
    let ((requests, model, format), charge) = body::parse(body, read, size).await?;
    let operations = stream::iter(requests).map(|request| app.operator.operate(request));
    let answers: Vec<_> = operations.buffered(TOGETHER).try_collect().await?;
    drop(charge);
    let embeddings = |answer| match answer {
        Answer::Embeddings(embeddings) => Ok(embeddings),
        _ => Err(ApiError::Internal),
    };
    let answers =
        answers.into_iter().map(|answered| embeddings(answered.answer)).collect::<Result<Vec<_>, _>>()?;
    let written = spawn_blocking(move || write(&answers, &model, format)).await;
    Ok(reply(written.map_err(|_| ApiError::Internal)??))
}

impl Asked {
    fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields: EmbeddingFields = parse(body)?;
        fields.foreign.check()?;
        let model = required_model(fields.model)?;
        let Some(inputs) = fields.input else { return Err(field("input", "is required")) };
        let format = match fields.encoding_format {
            None => Format::Float,
            Some(Text(name)) => match name.as_str() {
                "float" => Format::Float,
                "base64" => Format::Base64,
                _ => return Err(field("encoding_format", "must be \"float\" or \"base64\"")),
            },
        };
        let dimensions = fields.dimensions.map(|Whole(number)| dimensions(number)).transpose()?;
        let truncate = fields.truncate_prompt_tokens.map_or(Ok(Truncation::Refuse), truncation)?;
        let inputs = divided(inputs.check()?, truncate, dimensions);
        Ok(Self { model, inputs, format })
    }
}

fn dimensions(number: i128) -> Result<u32, ApiError> {
    let number = u32::try_from(number).ok().filter(|number| *number > 0);
    number.ok_or_else(|| field("dimensions", "must be a number of at least 1"))
}

/// As vLLM has it: -1 is what the model takes.
fn truncation(Whole(number): Whole) -> Result<Truncation, ApiError> {
    match (number, u32::try_from(number)) {
        (-1, _) => Ok(Truncation::ToModel),
        (1.., Ok(number)) => Ok(Truncation::To(number)),
        _ => {
            Err(field("truncate_prompt_tokens", "must be a number of tokens, or -1 for what the model takes"))
        }
    }
}

fn divided(prompts: Vec<Prompt>, truncate: Truncation, dimensions: Option<u32>) -> Vec<EmbedInput> {
    let (mut parts, mut first) = (Vec::new(), 0);
    let mut prompts = prompts.into_iter().peekable();
    while prompts.peek().is_some() {
        let inputs: Vec<Prompt> = prompts.by_ref().take(MAX_EMBED_INPUTS).collect();
        let count = inputs.len() as u32;
        parts.push(EmbedInput { inputs, first, truncate, dimensions });
        first += count;
    }
    parts
}

fn write(answers: &[Embeddings], model: &str, format: Format) -> Result<Vec<u8>, ApiError> {
    let tokens = answers.iter().flat_map(Embeddings::iter).map(|(tokens, _)| u64::from(tokens)).sum();
    let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
    json(&List { object: "list", data: Data { answers, format }, model, usage })
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for (index, (_, vector)) in self.answers.iter().flat_map(Embeddings::iter).enumerate() {
            let embedding = match self.format {
                Format::Float => Vector::Numbers(vector),
                Format::Base64 => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                    Vector::Text(STANDARD.encode(bytes))
                }
            };
            list.serialize_element(&Item { object: "embedding", index, embedding })?;
        }
        list.end()
    }
}

#[cfg(test)]
mod tests;
