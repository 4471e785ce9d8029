//! Where the output ends.

use super::fields::Fields;
use crate::http::{
    error::ApiError,
    json::{Texts, Whole, field, one_of},
};

/// Most stop strings, and bytes of one: each is looked for after every token.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 4 << 10;

/// Most tokens that end an output: each is made impossible, again and again, while it may not end.
const MAX_STOP_TOKENS: usize = 1024;

impl Fields {
    /// `Some(None)` is no limit. All names mean the same, as there is no hidden reasoning to count.
    pub(super) fn max_tokens(&self) -> Result<Option<Option<u32>>, ApiError> {
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

    /// As vLLM names it, or as transformers and SGLang do.
    pub(super) fn min_tokens(&self, max_tokens: Option<u32>) -> Result<u32, ApiError> {
        let names = [("min_tokens", self.min_tokens), ("min_new_tokens", self.min_new_tokens)];
        let Some((name, Whole(value))) = one_of(&names, |Whole(n)| n.to_string())? else { return Ok(0) };
        let Ok(value) = u32::try_from(value.min(u32::MAX.into())) else {
            return Err(field(name, "must be at least 0"));
        };
        match max_tokens {
            Some(max) if value > max => {
                Err(field(name, format!("is {value}, but the output ends after {max} tokens (`max_tokens`)")))
            }
            _ => Ok(value),
        }
    }

    pub(super) fn stop_tokens(&mut self) -> Result<Vec<u32>, ApiError> {
        let ids = self.stop_token_ids.take().unwrap_or_default();
        if ids.len() > MAX_STOP_TOKENS {
            let count = ids.len();
            let problem = format!("has {count} tokens, but at most {MAX_STOP_TOKENS} are allowed");
            return Err(field("stop_token_ids", problem));
        }
        let id = |(index, Whole(id))| {
            let problem = |_| field(&format!("stop_token_ids[{index}]"), "must be a token id");
            u32::try_from(id).map_err(problem)
        };
        ids.into_iter().enumerate().map(id).collect()
    }

    /// Empty texts, which some programs send for "none", are left out.
    pub(super) fn stop(&mut self) -> Result<Vec<String>, ApiError> {
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

/// A number of tokens to generate. `None` is no limit.
fn tokens(param: &str, Whole(value): Whole) -> Result<Option<u32>, ApiError> {
    match value {
        // As llama.cpp, LM Studio and Ollama have it; their -2 ends at the context's end, which ends everything here.
        -1 => Ok(None),
        -2 if matches!(param, "n_predict" | "num_predict") => Ok(None),
        1.. => Ok(Some(u32::try_from(value).unwrap_or(u32::MAX))),
        _ => Err(field(param, "must be at least 1, or -1 for no limit")),
    }
}
