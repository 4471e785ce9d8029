//! The model's tokenizer as prompts need it: nothing in its file may truncate, pad or inflate a prompt.

use std::{
    error::Error,
    sync::{Arc, OnceLock},
};

use protocol::message::{Failure, FailureKind};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizedString, Normalizer as _, NormalizerWrapper, PostProcessor as _,
    PreTokenizerWrapper, Tokenizer, TruncationDirection,
};

use super::{
    growth::{MAX_GROWTH, MAX_STEPS, growth},
    least::LeastTokens,
};

/// Most bytes that a normalizer may make of a prompt, or of the texts of all added tokens. A normalized text takes
/// 20 times that.
const MAX_NORMALIZED: usize = 64 << 20;

/// Bytes that are normalized at once to measure what becomes of a text.
const SAMPLE: usize = 4 << 10;

/// A tokenizer and its bounds.
#[derive(Debug)]
pub struct PromptTokenizer {
    tokenizer: Arc<Tokenizer>,
    /// Computed when the first long prompt comes: loading must not wait for it.
    least: OnceLock<Option<LeastTokens>>,
    /// How many times longer the normalizer can make a text, and the decoder the texts of tokens.
    growth: u64,
    decoder_growth: u64,
}

/// Why a `tokenizer.json` is not used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// It is not one, or uses what this version does not know.
    #[error("tokenizer.json can't be read")]
    Unreadable(#[source] Box<dyn Error + Send + Sync>),
    /// Its steps multiply the length of a text.
    #[error(
        "the {stage} of tokenizer.json can make a text {factor} times longer; the limit is {MAX_GROWTH} times"
    )]
    Growth {
        /// Which part of the file.
        stage: &'static str,
        /// How much longer.
        factor: u64,
    },
    /// It has very many steps.
    #[error("the {stage} of tokenizer.json has {steps} steps; the limit is {MAX_STEPS}")]
    Steps {
        /// Which part of the file.
        stage: &'static str,
        /// How many steps there are.
        steps: usize,
    },
    /// Its added tokens are too long to be normalized.
    #[error(
        "the added tokens of tokenizer.json have {bytes} bytes; its normalizer can make too much of them"
    )]
    AddedTokens {
        /// Length of all their texts.
        bytes: usize,
    },
}

/// The parts of the file that have to be looked at before it is used: reading it normalizes its added tokens.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Option<NormalizerWrapper>,
    #[serde(default)]
    pre_tokenizer: Option<PreTokenizerWrapper>,
    #[serde(default)]
    decoder: Option<DecoderWrapper>,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    #[serde(default)]
    content: String,
}

impl PromptTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// It can't be read, or would make far too much of a text.
    pub fn from_bytes(file: &[u8]) -> Result<Self, TokenizerError> {
        let (growth, decoder_growth) = check_growth(file)?;
        let mut tokenizer = Tokenizer::from_bytes(file).map_err(TokenizerError::Unreadable)?;
        // What training left in the file: transformers resets both for every call that does not ask for them.
        tokenizer.with_truncation(None).map_err(TokenizerError::Unreadable)?;
        tokenizer.with_padding(None);
        // Random tokens for the same text are for training.
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && model.dropout.is_some()
        {
            let mut model = model.clone();
            model.dropout = None;
            tokenizer.with_model(model);
        }
        Ok(Self { tokenizer: Arc::new(tokenizer), least: OnceLock::new(), growth, decoder_growth })
    }

    /// The tokenizer itself.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Token ids of `text`, as transformers encodes it: the text of a special token is that token.
    ///
    /// # Errors
    /// The tokenizer fails on it.
    pub(super) fn encode(&self, text: &str, add_special_tokens: bool) -> tokenizers::Result<Vec<u32>> {
        Ok(self.tokenizer.encode_fast(text, add_special_tokens)?.get_ids().to_vec())
    }

    /// The same, but of a text that has more than `most` tokens, special ones included, the end is cut off.
    ///
    /// # Errors
    /// The tokenizer fails on it.
    pub(super) fn encode_at_most(&self, text: &str, most: usize) -> tokenizers::Result<Vec<u32>> {
        let mut encoding = self.tokenizer.encode_fast(text, false)?;
        encoding.truncate(most.saturating_sub(self.special_tokens()), 0, TruncationDirection::Right);
        Ok(self.tokenizer.post_process(encoding, None, true)?.get_ids().to_vec())
    }

    /// How many special tokens a text gets.
    pub(super) fn special_tokens(&self) -> usize {
        self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false))
    }

    /// Refuses a text that can't have less than `room` tokens, or would take very much memory, before anything is
    /// spent on it. `param` is the field that it is from.
    pub(super) fn check_length(&self, text: &str, room: usize, param: &str) -> Result<(), Failure> {
        let most = room.saturating_sub(1);
        // The bound is never above the number of bytes.
        if text.len() > most {
            let least = self.least.get_or_init(|| LeastTokens::new(&self.tokenizer));
            if let Some(tokens) = least.as_ref().and_then(|least| least.exceeding(text, most)) {
                return Err(too_long(room, &format!("at least {tokens}"), param));
            }
        }
        if self.normalized_len(text) > MAX_NORMALIZED {
            return Err(Failure {
                kind: FailureKind::ContextLengthExceeded,
                param: Some(param.into()),
                message: format!(
                    "the prompt is too long: the model's normalizer makes more than {} MiB of it. Shorten it.",
                    MAX_NORMALIZED >> 20
                ),
            });
        }
        Ok(())
    }

    /// Refuses tokens of which the decoder could make very much text. `param` is the field that they are from.
    pub(super) fn check_decoded(&self, tokens: &[String], param: &str) -> Result<(), Failure> {
        let bytes: usize = tokens.iter().map(String::len).sum();
        if (bytes as u64).saturating_mul(self.decoder_growth) <= MAX_NORMALIZED as u64 {
            return Ok(());
        }
        let limit = MAX_NORMALIZED >> 20;
        let message =
            format!("the text of these tokens can have more than {limit} MiB; send fewer at a time");
        Err(Failure { kind: FailureKind::InvalidRequest, param: Some(param.into()), message })
    }

    /// Length of the normalized text, to about a [`SAMPLE`]; an upper bound where it is harmless.
    fn normalized_len(&self, text: &str) -> usize {
        let bound = text.len().saturating_mul(self.growth.try_into().unwrap_or(usize::MAX));
        let Some(normalizer) = self.tokenizer.get_normalizer().filter(|_| bound > MAX_NORMALIZED) else {
            return bound.min(MAX_NORMALIZED);
        };
        let (mut begin, mut len) = (0, 0);
        while begin < text.len() && len <= MAX_NORMALIZED {
            let end = text.floor_char_boundary(begin + SAMPLE);
            let mut sample = NormalizedString::from(&text[begin..end]);
            // What it fails on, it will fail on again.
            if normalizer.normalize(&mut sample).is_ok() {
                len += sample.len();
            }
            begin = end;
        }
        len
    }
}

/// A tokenizer without a token for what it does not know fails on it.
pub(super) fn not_encoded(error: &tokenizers::Error, param: &str) -> Failure {
    let message = format!("the model's tokenizer can't encode it: {error}");
    Failure { kind: FailureKind::InvalidRequest, param: Some(param.into()), message }
}

/// The prompt has `tokens`, too many for a context of `length`.
pub(super) fn too_long(length: usize, tokens: &str, param: &str) -> Failure {
    Failure {
        kind: FailureKind::ContextLengthExceeded,
        param: Some(param.into()),
        message: format!(
            "This model's maximum context length is {length} tokens, and the prompt has {tokens}. Shorten it."
        ),
    }
}

/// There is no memory for the keys and values of a prompt of `prompt` tokens, or for those of an answer of `answer` behind it.
pub(super) fn no_memory(kv_tokens: usize, prompt: usize, answer: Option<usize>, param: &str) -> Failure {
    let asked = answer.map_or_else(String::new, |answer| format!(" and the answer may have {answer}"));
    Failure {
        kind: FailureKind::ContextLengthExceeded,
        param: Some(param.into()),
        message: format!(
            "The prompt has {prompt} tokens{asked}, and this server has memory for the keys and values of {kv_tokens}. \
             Ask for less, or have `worker.kv_max_bytes` or `memory.max_bytes` raised."
        ),
    }
}

/// How much longer the normalizer can make a text, and the decoder the texts of tokens.
fn check_growth(file: &[u8]) -> Result<(u64, u64), TokenizerError> {
    let parts: Parts =
        serde_json::from_slice(file).map_err(|error| TokenizerError::Unreadable(error.into()))?;
    let as_json =
        |part: serde_json::Result<Value>| part.map_err(|error| TokenizerError::Unreadable(error.into()));
    let stages = [
        ("normalizer", as_json(serde_json::to_value(&parts.normalizer))?),
        ("pre_tokenizer", as_json(serde_json::to_value(&parts.pre_tokenizer))?),
        ("decoder", as_json(serde_json::to_value(&parts.decoder))?),
    ];
    let mut factors = [1; 3];
    for ((stage, value), known) in stages.iter().zip(&mut factors) {
        let (factor, steps) = growth(value);
        if factor > MAX_GROWTH {
            return Err(TokenizerError::Growth { stage, factor });
        }
        if steps > MAX_STEPS {
            return Err(TokenizerError::Steps { stage, steps });
        }
        *known = factor;
    }
    let bytes: usize = parts.added_tokens.iter().map(|token| token.content.len()).sum();
    if bytes as u64 * factors[0] > MAX_NORMALIZED as u64 {
        return Err(TokenizerError::AddedTokens { bytes });
    }
    Ok((factors[0], factors[2]))
}
