//! Answers and the chunks of streamed ones.

use std::{
    marker::PhantomData,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use serde::Serialize;
use tracing::error;

use super::{
    endpoint::{CallIds, End, Endpoint, Marked, Part},
    logprobs::characters,
    request::Context,
};
use crate::{
    http::{dialect, error::ApiError, sse},
    serve::{Choices, FinishReason, Output, OutputEvent, OutputPart, TokenLogprobs, Usage},
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
    /// What was shown of each choice.
    shown_of: Vec<Shown>,
    /// Choices whose end is still to come.
    open: usize,
    /// What those used that have ended.
    usage: Option<Usage>,
    endpoint: PhantomData<E>,
}

/// What was shown of a choice.
#[derive(Clone, Copy, Debug)]
struct Shown {
    /// Characters of its text, as far as its tokens were shown.
    characters: usize,
    /// Whether the model has called tools.
    calls: bool,
    /// By what clients refer to these.
    ids: CallIds,
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
        let shown_of = |_| Ok(Shown { characters: 0, calls: false, ids: CallIds(getrandom::u64()?) });
        let shown_of: Vec<Shown> = (0..choices.len()).map(shown_of).collect::<Result<_, ApiError>>()?;
        Ok(Self {
            id: format!("{}{:016x}{:016x}", E::ID_PREFIX, getrandom::u64()?, getrandom::u64()?),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            model,
            system_fingerprint: format!("fp_{}", digest.get(..12).unwrap_or(digest)),
            include_usage,
            logprobs,
            shown,
            echo,
            shown_of,
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
        let offset = self.shown_of.get(index as usize).map_or(0, |shown| shown.characters);
        let shown = (self.logprobs && !logprobs.is_empty()).then_some(logprobs);
        self.write_chunk(out, E::delta(Part { index, text, logprobs: shown, offset }));
        if let Some(shown) = self.shown_of.get_mut(index as usize) {
            shown.characters += logprobs.iter().map(characters).sum::<usize>();
        }
    }

    fn write_marked(&mut self, out: &mut BytesMut, index: u32, part: &OutputPart) {
        let Some(shown) = self.shown_of.get_mut(index as usize) else { return };
        shown.calls |= matches!(part, OutputPart::CallStart { .. });
        let ids = shown.ids;
        if let Some(choice) = E::marked(index, part, ids) {
            self.write_chunk(out, choice);
        }
    }

    fn write_end(&mut self, out: &mut BytesMut, index: u32, reason: FinishReason, usage: Usage) {
        let calls = self.shown_of.get(index as usize).is_some_and(|shown| shown.calls);
        self.write_chunk(out, E::last(index, End { reason, calls }));
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
            let text = format!("{}{}", self.echo, output.text);
            (index, text, logprobs, End { reason, calls: !output.calls.is_empty() }, output)
        });
        let texts: Vec<_> = choices.collect();
        let choices = texts.iter().zip(&self.shown_of).map(|(choice, &Shown { ids, .. })| {
            let (index, ref text, logprobs, end, Output { reasoning, calls, .. }) = *choice;
            E::full(Part { index, text, logprobs, offset: 0 }, Marked { reasoning, calls, ids }, end)
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
        for index in (0..).take(self.shown_of.len()) {
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
            OutputEvent::Delta { text, parts, logprobs } => {
                if !text.is_empty() || !logprobs.is_empty() {
                    self.write_delta(out, index, text, logprobs);
                }
                parts.iter().for_each(|part| self.write_marked(out, index, part));
            }
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
