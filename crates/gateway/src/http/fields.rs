//! Fields of requests: what was typed, then what it means. Nothing is silently ignored that would change the
//! answer: what the server can't do is refused by name.

pub(super) mod admin;
mod bias;
pub(super) mod chat;
mod check;
pub(super) mod completion;
mod foreign;
mod message;
mod object;
mod probe;
mod prompt;
mod request;
mod values;

use protocol::{
    ids::RequestId,
    message::{Generate, Prompt, Sampling},
};
use serde::de::DeserializeOwned;

use self::{
    check::{field, float, one_of, reword, tokens, unsupported},
    object::Object,
    probe::Probe,
    request::Request,
    values::{Flag, Number, Text, Texts, Whole},
};
use super::error::ApiError;

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
        Generate { id, prompt, sampling, max_tokens, stop, resume: Vec::new(), ignore_eos, credit }
    }

    /// About the memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let prompt = match &self.prompt {
            Prompt::Text(text) => text.capacity(),
            Prompt::Tokens(ids) => ids.capacity() * size_of::<u32>(),
            Prompt::Chat(messages) => {
                let inner = |it: &protocol::message::ChatMessage| {
                    it.role.capacity() + it.content.capacity() + it.name.as_ref().map_or(0, String::capacity)
                };
                messages.iter().map(inner).sum::<usize>() + size_of_val(messages.as_slice())
            }
        };
        let stop: usize = self.stop.iter().map(|stop| stop.capacity() + size_of::<String>()).sum();
        size_of::<Self>()
            + self.model.capacity()
            + prompt
            + stop
            + size_of_val(self.sampling.logit_bias.as_slice())
    }
}

/// Parses a body, naming the field that has the wrong type.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(body).map_err(|e| ApiError::NotUtf8(e.valid_up_to()))?;
    // Some programs begin every text with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut json = serde_json::Deserializer::from_str(text);
    let Object(parsed) = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        let error = e.into_inner();
        match error.classify() {
            serde_json::error::Category::Data if path == "." => {
                ApiError::Field { param: None, message: format!("the body: {}", reword(&error)) }
            }
            serde_json::error::Category::Data => field(&path, reword(&error)),
            _ => ApiError::Json(error),
        }
    })?;
    json.end().map_err(ApiError::Json)?;
    Ok(parsed)
}

/// Most stop strings, and bytes of one: each is looked for after every token.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 4 << 10;

/// In what the two kinds of completion differ.
struct Endpoint {
    default_max_tokens: Option<u32>,
    adds_special_tokens: bool,
}

impl Request {
    /// `prompt` is read last: its errors are about the content, those of the fields about the request.
    fn check(
        mut self,
        endpoint: Endpoint,
        prompt: impl FnOnce() -> Result<Prompt, ApiError>,
    ) -> Result<Checked, ApiError> {
        std::mem::take(&mut self.foreign).check()?;
        self.check_neutral(&endpoint)?;
        let options = self.stream_options.take().map(|Object(options)| options).unwrap_or_default();
        if options.continuous_usage_stats.is_filled() && options.continuous_usage_stats != Probe::Flag(false)
        {
            return Err(unsupported("stream_options.continuous_usage_stats", "usage in every chunk"));
        }
        Ok(Checked {
            sampling: self.sampling()?,
            stop: self.stop()?,
            max_tokens: self.max_tokens()?.unwrap_or(endpoint.default_max_tokens),
            model: match self.model.take() {
                Some(Text(model)) if !model.is_empty() => model,
                _ => return Err(field("model", "is required: name one of /v1/models")),
            },
            stream: self.stream.is_some_and(|Flag(stream)| stream),
            include_usage: options.include_usage.is_some_and(|Flag(include)| include),
            ignore_eos: self.ignore_eos.is_some_and(|Flag(ignore)| ignore),
            prompt: prompt()?,
        })
    }

    /// Fields that may only say what happens anyway.
    fn check_neutral(&self, endpoint: &Endpoint) -> Result<(), ApiError> {
        for (name, value) in [("n", self.n), ("best_of", self.best_of)] {
            match value {
                None | Some(Whole(1)) => {}
                Some(Whole(..1)) => return Err(field(name, "must be at least 1")),
                Some(Whole(n)) => return Err(unsupported(name, format!("{n} choices for one request"))),
            }
        }
        for (name, value) in
            [("add_special_tokens", self.add_special_tokens), ("add_bos_token", self.add_bos_token)]
        {
            if value.is_some_and(|Flag(adds)| adds != endpoint.adds_special_tokens) {
                return Err(unsupported(name, "choosing whether special tokens are added"));
            }
        }
        Ok(())
    }

    /// `Some(None)` is no limit. All names mean the same, as there is no hidden reasoning to count.
    fn max_tokens(&self) -> Result<Option<Option<u32>>, ApiError> {
        let names = [
            ("max_tokens", self.max_tokens),
            ("max_completion_tokens", self.max_completion_tokens),
            ("max_output_tokens", self.max_output_tokens),
            ("max_new_tokens", self.max_new_tokens),
            ("n_predict", self.n_predict),
            ("num_predict", self.num_predict),
        ];
        let given = one_of(&names, |Whole(n)| n.to_string())?;
        given.map(|(name, value)| tokens(name, value)).transpose()
    }

    fn sampling(&mut self) -> Result<Sampling, ApiError> {
        let off = Sampling::default();
        let top_k = match self.top_k {
            // -1 is another way to say "all".
            None | Some(Whole(-1)) => 0,
            Some(Whole(k)) => u32::try_from(k)
                .map_err(|_| field("top_k", "must be 0 or -1 (keep all tokens), or a number of tokens"))?,
        };
        let top_p = float("top_p", self.top_p, 1.0, 0.0..=1.0)?;
        if top_p <= 0.0 {
            return Err(field("top_p", "must be greater than 0 and at most 1"));
        }
        let sampling = Sampling {
            temperature: float("temperature", self.temperature, 1.0, 0.0..=2.0)?,
            top_p,
            top_k,
            min_p: float("min_p", self.min_p, off.min_p, 0.0..=1.0)?,
            repetition_penalty: self.repetition_penalty()?,
            presence_penalty: float("presence_penalty", self.presence_penalty, 0.0, -2.0..=2.0)?,
            frequency_penalty: float("frequency_penalty", self.frequency_penalty, 0.0, -2.0..=2.0)?,
            logit_bias: self.logit_bias.take().map(bias::LogitBias::check).transpose()?.unwrap_or_default(),
            seed: self.seed()?,
        };
        self.check_window(&sampling)?;
        Ok(sampling)
    }

    /// As mlx-lm, vLLM and SGLang name it, or as llama.cpp and Ollama do.
    fn repetition_penalty(&self) -> Result<f32, ApiError> {
        let names =
            [("repetition_penalty", self.repetition_penalty), ("repeat_penalty", self.repeat_penalty)];
        let Some((name, value)) = one_of(&names, |Number(n)| n.to_string())? else { return Ok(1.0) };
        let penalty = float(name, Some(value), 1.0, 0.0..=10.0)?;
        if penalty <= 0.0 {
            return Err(field(name, "must be greater than 0 and at most 10"));
        }
        Ok(penalty)
    }

    /// Penalties look at all tokens. A window makes no difference if there are none.
    fn check_window(&self, sampling: &Sampling) -> Result<(), ApiError> {
        let off = sampling.repetition_penalty == 1.0
            && sampling.presence_penalty == 0.0
            && sampling.frequency_penalty == 0.0;
        let names = [
            ("repeat_last_n", self.repeat_last_n),
            ("repetition_context_size", self.repetition_context_size),
        ];
        match names.iter().find(|(_, value)| value.is_some_and(|window| window != Whole(-1))) {
            Some((name, _)) if !off => Err(unsupported(name, "penalties for the last tokens only")),
            _ => Ok(()),
        }
    }

    /// The seed; one that is drawn if none is given, so that the worker needs no source of randomness.
    fn seed(&self) -> Result<u64, ApiError> {
        let names = [("seed", self.seed), ("random_seed", self.random_seed)];
        match one_of(&names, |Whole(n)| n.to_string())? {
            None => Ok(getrandom::u64()?),
            // Negative seeds are as good as any.
            Some((name, Whole(seed))) => u64::try_from(seed)
                .or_else(|_| i64::try_from(seed).map(|seed| seed as u64))
                .map_err(|_| field(name, "must be an integer of at most 64 bits")),
        }
    }

    /// Empty texts, which some programs send for "none", are left out.
    fn stop(&mut self) -> Result<Vec<String>, ApiError> {
        let (name, Texts(stops)) = match (self.stop.take(), self.stop_sequences.take()) {
            (Some(stop), None) => ("stop", stop),
            (None, Some(stop)) => ("stop_sequences", stop),
            (None, None) => return Ok(vec![]),
            (Some(_), Some(_)) => {
                return Err(field("stop_sequences", "is another name of `stop`: send one of them"));
            }
        };
        let stops: Vec<_> = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        let count = stops.len();
        if count > MAX_STOPS {
            return Err(field(name, format!("has {count} texts, but at most {MAX_STOPS} are allowed")));
        }
        if let Some(long) = stops.iter().map(String::len).find(|len| *len > MAX_STOP_BYTES) {
            let problem = format!("has a text of {long} bytes, but at most {MAX_STOP_BYTES} are allowed");
            return Err(field(name, problem));
        }
        Ok(stops)
    }
}

#[cfg(test)]
mod tests;
