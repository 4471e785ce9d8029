//! One generation in the worker.

use std::sync::Arc;

use protocol::{
    ids::RequestId,
    message::{Delta, DeltaTokens, FinishReason, Usage},
};
use thiserror::Error;

use super::emit::Emitter;
use crate::{
    cache::Variant,
    constraint::{Constraint, ConstraintError},
    model::Adapter,
    request_trace::SequenceSpans,
    requests::RequestHandle,
    sample::{Choice, Row, Sampler},
};

/// A request's tokens and everything that is needed to go on with them.
pub struct Sequence {
    /// Its request.
    pub id: RequestId,
    /// When its request arrived at the gateway, by that one's clock.
    pub arrived_micros: u64,
    /// What the gateway may change meanwhile.
    pub request: Arc<RequestHandle>,
    /// What the model computes it with, if that is more than the model.
    pub adapter: Option<Arc<Adapter>>,
    /// Prompt and output so far.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt_len: usize,
    /// Length at which the output ends.
    pub max_len: usize,
    /// Tokens that end the output.
    pub eos_tokens: EosTokens,
    /// Chooses its tokens.
    pub sampler: Sampler,
    /// What they have to be.
    pub constraint: Option<Constraint>,
    /// Turns them into text.
    pub emitter: Emitter,
    /// Why it has ended, if what it was resumed with was all.
    pub ended: Option<FinishReason>,
    /// Its part of its request's trace.
    pub spans: SequenceSpans,
}

/// Why a sequence can't go on after tokens that were generated elsewhere.
#[derive(Debug, Error)]
pub enum ResumeError {
    /// The worker that generated them would have stopped before.
    #[error("{tokens} tokens were generated, but the output ends after {end}")]
    AfterEnd {
        /// How many there are.
        tokens: usize,
        /// How many there can be.
        end: usize,
    },
    /// They can't be turned into output.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Why a sequence's output can't go on.
#[derive(Debug, Error)]
pub enum OutputError {
    /// A token can't be turned into text.
    #[error("the tokenizer failed on the output")]
    Tokenizer(#[from] tokenizers::Error),
    /// Its constraint is broken, or it is unknown what would keep it.
    #[error("the output's constraint failed")]
    Constraint(#[from] ConstraintError),
}

/// Tokens that end an output. Sequences share one list, in which a token is found quickly however many there are.
#[derive(Clone, Debug, Default)]
pub struct EosTokens(Arc<[u32]>);

impl EosTokens {
    /// Takes tokens in any order.
    pub fn new(mut tokens: Vec<u32>) -> Self {
        tokens.sort_unstable();
        tokens.dedup();
        Self(tokens.into())
    }

    /// These and `more`.
    #[must_use]
    pub fn and(&self, more: &[u32]) -> Self {
        if more.is_empty() {
            self.clone()
        } else {
            Self::new(self.iter().chain(more.iter().copied()).collect())
        }
    }

    /// All of them, in order.
    pub fn shared(&self) -> Arc<[u32]> {
        Arc::clone(&self.0)
    }

    /// Each of them, once.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    /// Whether `token` is one of them.
    pub fn contains(&self, token: u32) -> bool {
        self.0.binary_search(&token).is_ok()
    }
}

impl Sequence {
    /// What its keys and values depend on, beside the model and the tokens.
    pub fn variant(&self) -> Variant {
        Variant(self.adapter.as_ref().map(|adapter| adapter.digest()))
    }

    /// Takes `generated` as its own output, in the state that it had after them: as if it had sampled and emitted each.
    /// Nothing of them is emitted again.
    ///
    /// # Errors
    /// They can't be what this request's sequence has generated.
    pub fn resume(&mut self, generated: &[u32]) -> Result<(), ResumeError> {
        for (index, &token) in generated.iter().enumerate() {
            if self.ended.is_some() {
                return Err(ResumeError::AfterEnd { tokens: generated.len(), end: index });
            }
            self.sampler.accept(token);
            (_, self.ended) = self.push(token)?;
        }
        self.emitter.take_parts();
        Ok(())
    }

    /// What its next tokens are chosen from: `logits` are those after the last one, and after each of the `draft` behind.
    ///
    /// # Errors
    /// Those of its constraint.
    pub fn row<'a>(&'a mut self, logits: &'a [f32], draft: &'a [u32]) -> Result<Row<'a>, OutputError> {
        let mask = self.constraint.as_mut().map(Constraint::mask).transpose()?;
        Ok(Row { sampler: &mut self.sampler, logits, draft, position: self.tokens.len() as u64, mask })
    }

    /// How the token at `position`, the next one or the one behind, is chosen, if that takes nothing but its logits.
    pub fn choice(&self, position: u64) -> Option<Choice> {
        if self.constraint.is_some() { None } else { self.sampler.choice(position) }
    }

    /// Whether its next tokens may be guessed: not if each has a mask of its own, nor before there is an output.
    pub fn is_predictable(&self) -> bool {
        self.constraint.is_none() && self.tokens.len() > self.prompt_len
    }

    /// Has what the next token needs computed while the model runs.
    pub fn look_ahead(&mut self) {
        if let Some(constraint) = &mut self.constraint {
            constraint.look_ahead();
        }
    }

    /// Appends `tokens`, up to the one that ends the sequence. Returns what the client sees of them, and the reason if
    /// the sequence ends here.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder and of the constraint.
    pub fn emit(&mut self, tokens: &[u32]) -> Result<(Delta, Option<FinishReason>), OutputError> {
        let first_token = (self.tokens.len() - self.prompt_len) as u32;
        let (mut text, mut reason, mut pushed) = (String::new(), None, DeltaTokens::new());
        let mut logprobs = Vec::new();
        for &token in tokens {
            let (more, end) = self.push(token)?;
            text += &more;
            pushed.push(token);
            let ranking = self.sampler.take_ranking();
            let ranking = ranking.filter(|_| self.emitter.in_answer());
            logprobs.extend(ranking.map(|ranking| self.emitter.logprobs(ranking)));
            if end.is_some() {
                reason = end;
                break;
            }
        }
        let parts = self.emitter.take_parts();
        Ok((Delta { first_token, tokens: pushed, text: text.into(), parts, logprobs }, reason))
    }

    /// Appends a token. Returns its text, as far as it is certain.
    fn push(&mut self, token: u32) -> Result<(String, Option<FinishReason>), OutputError> {
        self.tokens.push(token);
        let complete = match &mut self.constraint {
            Some(constraint) => constraint.accept(token)?,
            None => false,
        };
        if self.eos_tokens.contains(token) {
            return Ok((self.emitter.end_with(token)?, Some(FinishReason::Stop)));
        }
        let (mut text, mut reason) = self.emitter.push(token)?;
        if reason.is_none() && (complete || self.tokens.len() >= self.max_len) {
            let (rest, stopped) = self.emitter.finish()?;
            text += &rest;
            let end = if complete { FinishReason::Stop } else { FinishReason::Length };
            reason = Some(stopped.unwrap_or(end));
        }
        Ok((text, reason))
    }

    /// What it has used so far.
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_len as u32,
            completion_tokens: (self.tokens.len() - self.prompt_len) as u32,
            ..Usage::default()
        }
    }
}
