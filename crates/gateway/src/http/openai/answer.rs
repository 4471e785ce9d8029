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
    serve::{Choices, FinishReason, Output, OutputEvent, TokenLogprobs, Usage},
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
    /// Choices that a full answer shows: the best ones, if there are more.
    shown: usize,
    /// Comes before the output of each choice.
    echo: String,
    /// Characters so far of each choice, as far as their tokens were shown.
    offsets: Vec<usize>,
    /// Choices whose end is still to come.
    open: usize,
    /// What those used that have ended.
    usage: Option<Usage>,
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
    /// Of a request with this context. Each choice begins with `echo`.
    pub(super) fn new(context: Context, choices: &Choices, echo: String) -> Result<Self, ApiError> {
        let Context { model, include_usage, logprobs, shown } = context;
        let digest = choices.digest();
        Ok(Self {
            id: format!("{}{:016x}{:016x}", E::ID_PREFIX, getrandom::u64()?, getrandom::u64()?),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            model,
            system_fingerprint: format!("fp_{}", digest.get(..12).unwrap_or(digest)),
            include_usage,
            logprobs,
            shown,
            echo,
            offsets: vec![0; choices.len()],
            open: choices.len(),
            usage: None,
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

    fn write_delta(&mut self, out: &mut BytesMut, index: u32, text: &str, logprobs: &[TokenLogprobs]) {
        let offset = self.offsets.get(index as usize).copied().unwrap_or_default();
        let shown = (self.logprobs && !logprobs.is_empty()).then_some(logprobs);
        self.write_chunk(out, E::delta(Part { index, text, logprobs: shown, offset }));
        if let Some(offset) = self.offsets.get_mut(index as usize) {
            *offset += logprobs.iter().map(characters).sum::<usize>();
        }
    }

    fn write_end(&mut self, out: &mut BytesMut, index: u32, reason: FinishReason, usage: Usage) {
        self.write_chunk(out, E::last(index, reason));
        let usage = together(self.usage, usage);
        self.usage = Some(usage);
        self.open = self.open.saturating_sub(1);
        if self.open > 0 {
            return;
        }
        if self.include_usage {
            let usage = Some(Some(UsageJson::from(usage)));
            sse::json(out, &Object::<()> { meta: self.meta(E::CHUNK_OBJECT), choices: &[], usage });
        }
        sse::line(out, "[DONE]");
    }
}

impl<E: Endpoint> dialect::Answer for Answer<E> {
    fn full(&self, outputs: &[Output]) -> Vec<u8> {
        let usage = outputs.iter().fold(None, |sum, output| Some(together(sum, output.usage)));
        let choices = best(outputs, self.shown).into_iter().zip(0..).map(|(output, index)| {
            let logprobs = self.logprobs.then_some(&*output.logprobs);
            // One that has no reason has not ended, and there is none.
            let reason = output.reason.unwrap_or(FinishReason::Stop);
            (index, format!("{}{}", self.echo, output.text), logprobs, reason)
        });
        let texts: Vec<_> = choices.collect();
        let choices = texts.iter().map(|&(index, ref text, logprobs, reason)| {
            E::full(Part { index, text, logprobs, offset: 0 }, reason)
        });
        let (choices, usage) = (choices.collect::<Vec<_>>(), Some(usage.map(UsageJson::from)));
        let object = Object { meta: self.meta(E::OBJECT), choices: &choices, usage };
        // Text, numbers and fixed keys: JSON can express them.
        serde_json::to_vec(&object).unwrap_or_else(|error| {
            error!(%error, "an answer could not be written");
            Vec::new()
        })
    }

    fn first(&mut self, out: &mut BytesMut) {
        for index in (0..).take(self.offsets.len()) {
            if let Some(choice) = E::first(index) {
                self.write_chunk(out, choice);
            }
            if !self.echo.is_empty() {
                let part = Part { index, text: &self.echo, logprobs: None, offset: 0 };
                self.write_chunk(out, E::delta(part));
            }
        }
    }

    fn event(&mut self, out: &mut BytesMut, index: u32, event: &OutputEvent) {
        match event {
            OutputEvent::Delta { text, logprobs } => self.write_delta(out, index, text, logprobs),
            OutputEvent::Finish { reason, usage } => self.write_end(out, index, *reason, *usage),
        }
    }
}

/// What choices used together. They share the prompt; one of them had the least of it in the cache, and computed it for all.
fn together(others: Option<Usage>, one: Usage) -> Usage {
    let Some(others) = others else { return one };
    Usage {
        prompt_tokens: one.prompt_tokens,
        completion_tokens: others.completion_tokens.saturating_add(one.completion_tokens),
        cached_tokens: others.cached_tokens.min(one.cached_tokens),
        drafted_tokens: others.drafted_tokens.saturating_add(one.drafted_tokens),
        accepted_tokens: others.accepted_tokens.saturating_add(one.accepted_tokens),
    }
}

/// Those `count` outputs whose tokens were the most likely on average, the best first; all of them, as they are, if there
/// are no more.
fn best(outputs: &[Output], count: usize) -> Vec<&Output> {
    let mut best: Vec<&Output> = outputs.iter().collect();
    if count < outputs.len() {
        best.sort_by(|a, b| mean_logprob(b).total_cmp(&mean_logprob(a)));
        best.truncate(count);
    }
    best
}

fn mean_logprob(output: &Output) -> f64 {
    let sum: f64 = output.logprobs.iter().map(|token| f64::from(token.chosen.logprob)).sum();
    sum / output.logprobs.len().max(1) as f64
}

#[cfg(test)]
mod tests;
