//! How likely tokens were: a chat asks with a flag and a number, a completion with a number.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, Unexpected, Visitor},
};

use super::{Kind, fields::Fields};
use crate::{
    http::{
        error::ApiError,
        json::{Whole, field},
    },
    serve::MAX_TOP_LOGPROBS,
};

/// `logprobs`, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TypedLogprobs {
    Flag(bool),
    Count(i128),
}

impl Fields {
    /// How many of the most likely tokens are to be shown with each; `None` shows nothing.
    pub(super) fn logprobs(&self, kind: Kind) -> Result<Option<u8>, ApiError> {
        use TypedLogprobs::{Count, Flag};
        match (kind, self.logprobs, self.top_logprobs) {
            (Kind::Chat, None | Some(Flag(false)), None | Some(Whole(0))) => Ok(None),
            (Kind::Chat, None | Some(Flag(false)), Some(_)) => {
                Err(field("top_logprobs", "is for answers with log probabilities; set `logprobs` to true"))
            }
            (Kind::Chat, Some(Flag(true)), top) => {
                count("top_logprobs", top.map_or(0, |Whole(top)| top)).map(Some)
            }
            (Kind::Chat, Some(Count(_)), _) => {
                Err(field("logprobs", "must be true or false; the number is `top_logprobs`"))
            }
            (Kind::Completion, _, Some(Whole(1..))) => Err(field(
                "top_logprobs",
                "is a field of /v1/chat/completions; send the number as `logprobs`",
            )),
            (Kind::Completion, None | Some(Flag(false)), _) => Ok(None),
            (Kind::Completion, Some(Count(top)), _) => count("logprobs", top).map(Some),
            (Kind::Completion, Some(Flag(true)), _) => {
                Err(field("logprobs", format!("must be a number of tokens, from 0 to {MAX_TOP_LOGPROBS}")))
            }
        }
    }
}

fn count(param: &str, value: i128) -> Result<u8, ApiError> {
    let count = u8::try_from(value).ok().filter(|count| usize::from(*count) <= MAX_TOP_LOGPROBS);
    count.ok_or_else(|| field(param, format!("is {value}, but must be from 0 to {MAX_TOP_LOGPROBS}")))
}

impl<'de> Deserialize<'de> for TypedLogprobs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values;
        impl Visitor<'_> for Values {
            type Value = TypedLogprobs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a whole number")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<TypedLogprobs, E> {
                Ok(TypedLogprobs::Flag(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<TypedLogprobs, E> {
                Ok(TypedLogprobs::Count(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<TypedLogprobs, E> {
                Ok(TypedLogprobs::Count(value.into()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<TypedLogprobs, E> {
                if value.fract() == 0.0 {
                    return Ok(TypedLogprobs::Count(value as i128));
                }
                Err(E::invalid_value(Unexpected::Float(value), &self))
            }
        }
        deserializer.deserialize_any(Values)
    }
}
