//! One generation in the worker.

use std::sync::Arc;

use protocol::{
    ids::RequestId,
    message::{FinishReason, TokenChunk, Usage},
};

use crate::{emit::Emitter, requests::Control, sampling::Sampler};

/// A request's tokens and everything that is needed to go on with them.
pub struct Sequence {
    /// Its request.
    pub id: RequestId,
    /// What the gateway may change meanwhile.
    pub control: Arc<Control>,
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
    /// Turns them into text.
    pub emitter: Emitter,
}

/// Tokens that end an output. Sequences share one list, in which a token is found in no time however many there are.
#[derive(Clone, Debug, Default)]
pub struct EosTokens(Arc<[u32]>);

impl EosTokens {
    /// Takes tokens in any order.
    pub fn new(mut tokens: Vec<u32>) -> Self {
        tokens.sort_unstable();
        tokens.dedup();
        Self(tokens.into())
    }

    /// Whether `token` is one of them.
    pub fn contains(&self, token: u32) -> bool {
        self.0.binary_search(&token).is_ok()
    }
}

impl Sequence {
    /// Chooses the next token from the logits after the last one and appends it. Returns what the client
    /// sees of it, and the reason if the sequence ends here.
    ///
    /// # Errors
    /// Those of the tokenizer's decoder.
    pub fn extend(&mut self, logits: &[f32]) -> tokenizers::Result<(TokenChunk, Option<FinishReason>)> {
        let token = self.sampler.sample(logits, self.tokens.len() as u64);
        self.tokens.push(token);
        if self.eos_tokens.contains(token) {
            let (text, _) = self.emitter.finish()?;
            return Ok((TokenChunk { text, tokens: vec![token] }, Some(FinishReason::Stop)));
        }
        let (mut chunk, mut reason) = self.emitter.push(token)?;
        if reason.is_none() && self.tokens.len() >= self.max_len {
            let (text, stopped) = self.emitter.finish()?;
            chunk.text += &text;
            reason = Some(stopped.unwrap_or(FinishReason::Length));
        }
        Ok((chunk, reason))
    }

    /// What it has used so far.
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_len as u32,
            completion_tokens: (self.tokens.len() - self.prompt_len) as u32,
            cached_tokens: 0,
        }
    }
}
