//! Stage 7, prepare: from what the client asked to tokens that fit the model, on threads of its own.

mod pool;
pub mod template;

use std::sync::Arc;

pub use pool::Pool;
use protocol::message::{Failure, FailureKind, Generate, Prompt};
pub use template::ChatTemplate;
use tokenizers::Tokenizer;

use crate::{emit::Emitter, engine::Sequence, requests::Control, sampling::Sampler};

/// What preparation knows of the model: everything but its weights.
#[derive(Debug)]
pub struct Preparer {
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template; base models have none.
    pub template: Option<ChatTemplate>,
    /// Tokens that end an output.
    pub eos_tokens: Vec<u32>,
    /// Most tokens of prompt and output together.
    pub context_length: usize,
    /// Number of token ids.
    pub vocab_size: u32,
}

impl Preparer {
    /// Turns a request into a sequence that can be scheduled.
    ///
    /// # Errors
    /// The request can't be served by this model; the failure names the field to blame.
    pub fn prepare(&self, generate: Generate, control: Arc<Control>) -> Result<Sequence, Failure> {
        let tokens = self.tokens(&generate.prompt)?;
        let room = self.room(tokens.len(), &generate.prompt)?;
        self.check_bias(&generate.sampling.logit_bias)?;
        let asked = generate.max_tokens.map_or(usize::MAX, |max| max as usize);
        Ok(Sequence {
            id: generate.id,
            control,
            prompt_len: tokens.len(),
            max_len: tokens.len() + room.min(asked),
            eos_tokens: if generate.ignore_eos { Vec::new() } else { self.eos_tokens.clone() },
            sampler: Sampler::new(generate.sampling, &tokens),
            emitter: Emitter::new(Arc::clone(&self.tokenizer), &generate.stop),
            tokens,
            kv: None,
        })
    }

    fn tokens(&self, prompt: &Prompt) -> Result<Vec<u32>, Failure> {
        let tokens = match prompt {
            Prompt::Chat(messages) => {
                let template = self.template.as_ref().ok_or_else(|| {
                    invalid("messages", "this model has no chat template; use /v1/completions with a prompt")
                })?;
                let text = template.render(messages).map_err(|error| error.failure())?;
                // The template writes the special tokens itself.
                self.encode(&text, false)?
            }
            Prompt::Text(text) => self.encode(text, true)?,
            Prompt::Tokens(tokens) => {
                if let Some(bad) = tokens.iter().find(|&&token| token >= self.vocab_size) {
                    let message =
                        format!("token {bad} is not in the model's vocabulary of {} tokens", self.vocab_size);
                    return Err(invalid("prompt", message));
                }
                tokens.clone()
            }
        };
        if tokens.is_empty() {
            return Err(invalid(param(prompt), "the prompt is empty: there is nothing to continue"));
        }
        Ok(tokens)
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Failure> {
        let encoding = self.tokenizer.encode_fast(text, add_special_tokens).map_err(|error| Failure {
            kind: FailureKind::Internal,
            param: None,
            message: format!("the tokenizer failed on the prompt: {error}"),
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// How many tokens can follow a prompt of `len` tokens.
    fn room(&self, len: usize, prompt: &Prompt) -> Result<usize, Failure> {
        match self.context_length.checked_sub(len) {
            None | Some(0) => Err(Failure {
                kind: FailureKind::ContextLengthExceeded,
                param: Some(param(prompt).into()),
                message: format!(
                    "This model's maximum context length is {} tokens, and the prompt has {len}. Shorten it.",
                    self.context_length
                ),
            }),
            Some(room) => Ok(room),
        }
    }

    fn check_bias(&self, bias: &[(u32, f32)]) -> Result<(), Failure> {
        match bias.iter().find(|&&(token, _)| token >= self.vocab_size) {
            Some((token, _)) => Err(invalid(
                "logit_bias",
                format!("token {token} is not in the model's vocabulary of {} tokens", self.vocab_size),
            )),
            None => Ok(()),
        }
    }
}

fn param(prompt: &Prompt) -> &'static str {
    match prompt {
        Prompt::Chat(_) => "messages",
        Prompt::Text(_) | Prompt::Tokens(_) => "prompt",
    }
}

fn invalid(param: &str, message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::InvalidRequest, param: Some(param.into()), message: message.into() }
}
