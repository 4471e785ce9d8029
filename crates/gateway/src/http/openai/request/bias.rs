//! `logit_bias`.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::http::{
    error::ApiError,
    json::{Key, Number, field, float},
};

/// Biases by token id, as typed.
#[derive(Debug, Default)]
pub(super) struct LogitBias {
    entries: Vec<(u32, f64)>,
    /// The first key that can't be one, and why.
    wrong: Option<(String, &'static str)>,
}

/// Bytes of a wrong key that are repeated to the client.
const MAX_KEY: usize = 40;

impl LogitBias {
    /// The biases, each within its range.
    pub(super) fn check(self) -> Result<Vec<(u32, f32)>, ApiError> {
        if let Some((key, why)) = self.wrong {
            return Err(field(&format!("logit_bias.{key}"), why));
        }
        let bias = |(token, bias)| {
            let range = -100.0..=100.0;
            Ok((token, float(&format!("logit_bias.{token}"), Some(Number(bias)), 0.0, range)?))
        };
        self.entries.into_iter().map(bias).collect()
    }
}

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Biases)
    }
}

struct Biases;

impl<'de> Visitor<'de> for Biases {
    type Value = LogitBias;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from token ids to numbers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBias, A::Error> {
        let mut bias = LogitBias::default();
        let mut seen = HashSet::new();
        while let Some(Key(key)) = map.next_key()? {
            let token = token_id(&key);
            let Number(value) = map.next_value()?;
            let wrong = match token {
                Some(token) if seen.insert(token) => {
                    bias.entries.push((token, value));
                    continue;
                }
                Some(_) => "is given twice",
                None => "must be a token id, in digits without leading zeros",
            };
            bias.wrong.get_or_insert((key[..key.floor_char_boundary(MAX_KEY)].to_owned(), wrong));
        }
        Ok(bias)
    }
}

/// A token id in the one way to write it, so that two keys are never one token.
fn token_id(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}
