//! Answers and the chunks of streamed ones.

use std::{
    marker::PhantomData,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use serde::Serialize;
use tracing::error;

use super::{endpoint::Endpoint, request::Context};
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
        let Context { model, include_usage } = context;
        Ok(Self {
            id: format!("{}{:016x}{:016x}", E::ID_PREFIX, getrandom::u64()?, getrandom::u64()?),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            model,
            system_fingerprint: format!("fp_{}", digest.get(..12).unwrap_or(digest)),
            include_usage,
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
        let choices = &[E::full(&output.text, output.reason)];
        let object = Object { meta: self.meta(E::OBJECT), choices, usage: Some(Some(output.usage.into())) };
        // Text, numbers and fixed keys: JSON can express them.
        serde_json::to_vec(&object).unwrap_or_else(|error| {
            error!(%error, "an answer could not be written");
            Vec::new()
        })
    }

    fn first(&mut self, out: &mut BytesMut) {
        if let Some(choice) = E::first() {
            self.write_chunk(out, choice);
        }
    }

    fn event(&mut self, out: &mut BytesMut, event: &OutputEvent) {
        match event {
            OutputEvent::TextDelta(text) => self.write_chunk(out, E::delta(text)),
            OutputEvent::Finish { reason, usage } => {
                self.write_chunk(out, E::last(*reason));
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
