//! Fields of requests: what was typed, then what it means. Nothing is silently ignored that would
//! change the answer: what the server can't do is refused by name. Fields that it does not know are
//! allowed, since clients send many (`user`, `metadata`, `store`, …).

pub(super) mod admin;
pub(super) mod chat;
mod check;
pub(super) mod completion;
mod object;

use protocol::{
    ids::RequestId,
    message::{Generate, Prompt, Sampling},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use self::{
    check::{field, float, integer_text, refuse, unsupported},
    object::Object,
};
use super::error::ApiError;

/// Fields that both kinds of completion have, as typed. `Value` where JSON of several types is allowed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CommonFields {
    model: Option<String>,
    stream: Option<bool>,
    stream_options: Option<Object<StreamOptions>>,
    max_tokens: Option<u64>,
    stop: Value,
    seed: Value,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    logit_bias: Option<serde_json::Map<String, Value>>,
    ignore_eos: Option<bool>,
    n: Option<u64>,
    logprobs: Value,
    response_format: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// A request that can be served, if its model and a place can be found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Checked {
    /// The model's name, as the client wrote it.
    pub(super) model: String,
    /// Answer with events.
    pub(super) stream: bool,
    /// Send a chunk with the usage before the end.
    pub(super) include_usage: bool,
    /// What to continue.
    pub(super) prompt: Prompt,
    sampling: Sampling,
    max_tokens: Option<u32>,
    stop: Vec<String>,
    ignore_eos: bool,
}

impl Checked {
    /// The message for the worker.
    pub(super) fn into_generate(self, id: RequestId, credit: u32) -> Generate {
        let Self { prompt, sampling, max_tokens, stop, ignore_eos, .. } = self;
        Generate { id, prompt, sampling, max_tokens, stop, ignore_eos, credit }
    }
}

/// Parses a body, naming the field that has the wrong type.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(body).map_err(|e| ApiError::NotUtf8(e.valid_up_to()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let Object(parsed) = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        let error = e.into_inner();
        match error.classify() {
            serde_json::error::Category::Data if path == "." => {
                ApiError::Field { param: None, message: format!("the body: {error}") }
            }
            serde_json::error::Category::Data => field(&path, error),
            _ => ApiError::Json(error),
        }
    })?;
    json.end().map_err(ApiError::Json)?;
    Ok(parsed)
}

/// Most stop texts; each is looked for after every token.
const MAX_STOPS: usize = 16;

impl CommonFields {
    /// `max_tokens` is given apart, because the two kinds of request have different rules for it.
    fn check(self, prompt: Prompt, max_tokens: Option<u32>) -> Result<Checked, ApiError> {
        self.refuse_unsupported()?;
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(field("stream_options", "is only allowed when `stream` is true"));
        }
        Ok(Checked {
            sampling: self.sampling()?,
            stop: self.stop()?,
            model: match self.model {
                Some(model) if !model.is_empty() => model,
                _ => return Err(field("model", "is required: name one of /v1/models")),
            },
            stream,
            include_usage: self.stream_options.and_then(|o| o.0.include_usage).unwrap_or(false),
            prompt,
            max_tokens,
            ignore_eos: self.ignore_eos.unwrap_or(false),
        })
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        match self.n {
            None | Some(1) => {}
            Some(0) => return Err(field("n", "must be at least 1")),
            Some(n) => return Err(unsupported("n", format!("{n} choices for one request"))),
        }
        // Chats ask with a boolean, completions with a number, of which 0 asks too.
        refuse("logprobs", &self.logprobs, |v| *v != Value::Bool(false), "returning log probabilities")?;
        let is_text = |v: &Value| v.get("type").and_then(Value::as_str) == Some("text");
        refuse("response_format", &self.response_format, |v| !is_text(v), "a format other than text")
    }

    fn sampling(&self) -> Result<Sampling, ApiError> {
        let off = Sampling::default();
        let top_k = match self.top_k {
            // -1 is another way to say "all".
            None | Some(-1) => 0,
            Some(k) => u32::try_from(k)
                .map_err(|_| field("top_k", "must be 0 or -1 (keep all tokens), or a number of tokens"))?,
        };
        let top_p = float("top_p", self.top_p, 1.0, 0.0..=1.0)?;
        if top_p <= 0.0 {
            return Err(field("top_p", "must be greater than 0 and at most 1"));
        }
        let repetition_penalty = float("repetition_penalty", self.repetition_penalty, 1.0, 0.0..=10.0)?;
        if repetition_penalty <= 0.0 {
            return Err(field("repetition_penalty", "must be greater than 0 and at most 10"));
        }
        Ok(Sampling {
            temperature: float("temperature", self.temperature, 1.0, 0.0..=2.0)?,
            top_p,
            top_k,
            min_p: float("min_p", self.min_p, off.min_p, 0.0..=1.0)?,
            repetition_penalty,
            presence_penalty: float("presence_penalty", self.presence_penalty, 0.0, -2.0..=2.0)?,
            frequency_penalty: float("frequency_penalty", self.frequency_penalty, 0.0, -2.0..=2.0)?,
            logit_bias: self.logit_bias()?,
            seed: self.seed()?,
        })
    }

    /// The seed; one that is drawn if none is given, so that the worker needs no chance of its own.
    fn seed(&self) -> Result<u64, ApiError> {
        match &self.seed {
            Value::Null => Ok(getrandom::u64()?),
            // Negative seeds are as good as any.
            seed => match (seed.as_u64(), seed.as_i64()) {
                (Some(seed), _) => Ok(seed),
                (None, Some(seed)) => Ok(seed as u64),
                (None, None) => Err(field("seed", "must be an integer of at most 64 bits")),
            },
        }
    }

    fn stop(&self) -> Result<Vec<String>, ApiError> {
        let wrong = || field("stop", "must be a string or a list of strings");
        let stops = match &self.stop {
            Value::Null => vec![],
            Value::String(stop) => vec![stop.clone()],
            Value::Array(stops) => {
                let texts = stops.iter().map(|s| s.as_str().map(str::to_owned));
                texts.collect::<Option<Vec<_>>>().ok_or_else(wrong)?
            }
            _ => return Err(wrong()),
        };
        if stops.len() > MAX_STOPS {
            return Err(field(
                "stop",
                format!("has {} texts, but at most {MAX_STOPS} are allowed", stops.len()),
            ));
        }
        if stops.iter().any(String::is_empty) {
            return Err(field("stop", "must not contain an empty text, which would stop at once"));
        }
        Ok(stops)
    }

    fn logit_bias(&self) -> Result<Vec<(u32, f32)>, ApiError> {
        let Some(map) = &self.logit_bias else { return Ok(vec![]) };
        let entry = |(token, bias): (&String, &Value)| {
            let path = format!("logit_bias.{token}");
            let token = integer_text(token)
                .ok_or_else(|| field(&path, "must be keyed by token ids, like `{\"50256\": -100}`"))?;
            let bias = bias.as_f64().ok_or_else(|| field(&path, "must be a number from -100 to 100"))?;
            Ok((token, float(&path, Some(bias), 0.0, -100.0..=100.0)?))
        };
        map.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests;
