//! Answers and the chunks of streamed ones.

use std::{
    marker::PhantomData,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use serde::Serialize;
use tracing::error;

use super::{
    endpoint::{Endpoint, Part},
    logprobs::characters,
    request::Context,
};
use crate::{
    http::{dialect, error::ApiError, sse},
    serve::{Output, OutputEvent, Usage},
};

/// Writes one answer.
pub(super) struct Answer<E> {
    id: String,
    created: u64,
    model: String,
    system_fingerprint: String,
    include_usage: bool,
    /// How likely tokens were is shown.
    logprobs: bool,
    /// Characters so far, as far as their tokens were shown.
    offset: usize,
    endpoint: PhantomData<E>,
}

/// The fields that all objects of one answer share.
#[derive(Clone, Copy, Serialize)]
struct ResponseMeta<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
}

/// An answer, or a chunk of one.
#[derive(Serialize)]
struct Object<'a, C> {
    #[serde(flatten)]
    meta: ResponseMeta<'a>,
    choices: &'a [C],
    /// `None` leaves the field out, `Some(None)` is a null.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageJson>>,
}

/// OpenAI's usage object.
#[derive(Clone, Copy, Serialize)]
struct UsageJson {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Serialize)]
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

impl<E: Endpoint> Answer<E> {
    /// Of a request with this context, by the model with this digest.
    pub(super) fn new(context: Context, digest: &str) -> Result<Self, ApiError> {
        let Context { model, include_usage, logprobs } = context;
        Ok(Self {
            id: format!("{}{:016x}{:016x}", E::ID_PREFIX, getrandom::u64()?, getrandom::u64()?),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            model,
            system_fingerprint: format!("fp_{}", digest.get(..12).unwrap_or(digest)),
            include_usage,
            logprobs,
            offset: 0,
            endpoint: PhantomData,
        })
    }

    fn meta(&self, object: &'static str) -> ResponseMeta<'_> {
        let Self { id, created, model, system_fingerprint, .. } = self;
        ResponseMeta { id, object, created: *created, model, system_fingerprint }
    }

    /// A chunk. If the usage is to come at the end, every other chunk has a null for it.
    fn write_chunk(&self, out: &mut BytesMut, choice: impl Serialize) {
        let usage = self.include_usage.then_some(None);
        sse::json(out, &Object { meta: self.meta(E::CHUNK_OBJECT), choices: &[choice], usage });
    }
}

impl<E: Endpoint> dialect::Answer for Answer<E> {
    fn full(&self, output: &Output) -> Vec<u8> {
        let logprobs = self.logprobs.then_some(&*output.logprobs);
        let part = Part { index: 0, text: &output.text, logprobs, offset: 0 };
        let choices = &[E::full(part, output.reason)];
        let object = Object { meta: self.meta(E::OBJECT), choices, usage: Some(Some(output.usage.into())) };
        // Text, numbers and fixed keys: JSON can express them.
        serde_json::to_vec(&object).unwrap_or_else(|error| {
            error!(%error, "an answer could not be written");
            Vec::new()
        })
    }

    fn first(&mut self, out: &mut BytesMut) {
        if let Some(choice) = E::first(0) {
            self.write_chunk(out, choice);
        }
    }

    fn event(&mut self, out: &mut BytesMut, event: &OutputEvent) {
        match event {
            OutputEvent::Delta { text, logprobs } => {
                let shown = (self.logprobs && !logprobs.is_empty()).then_some(&**logprobs);
                self.write_chunk(
                    out,
                    E::delta(Part { index: 0, text, logprobs: shown, offset: self.offset }),
                );
                self.offset += logprobs.iter().map(characters).sum::<usize>();
            }
            OutputEvent::Finish { reason, usage } => {
                self.write_chunk(out, E::last(0, *reason));
                if self.include_usage {
                    let usage = Some(Some(UsageJson::from(*usage)));
                    let meta = self.meta(E::CHUNK_OBJECT);
                    sse::json(out, &Object::<()> { meta, choices: &[], usage });
                }
                sse::line(out, "[DONE]");
            }
        }
    }
}
