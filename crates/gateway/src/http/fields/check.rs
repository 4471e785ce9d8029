//! Small checks and the words of their errors.

use std::{fmt::Display, ops::RangeInclusive};

use serde_json::Value;

use crate::http::error::ApiError;

/// A field is wrong; `problem` continues the sentence after its name.
pub(super) fn field(param: &str, problem: impl Display) -> ApiError {
    ApiError::Field { param: Some(param.to_owned()), message: format!("`{param}`: {problem}") }
}

/// A field asks for `what`, which can't be done.
pub(super) fn unsupported(param: &str, what: impl Into<String>) -> ApiError {
    ApiError::Unsupported { param: param.to_owned(), what: what.into() }
}

/// Refuses a value that asks for `what`. Null, which is also a missing field, asks for nothing.
pub(super) fn refuse(
    param: &str,
    value: &Value,
    asks: impl FnOnce(&Value) -> bool,
    what: &str,
) -> Result<(), ApiError> {
    if !value.is_null() && asks(value) { Err(unsupported(param, what)) } else { Ok(()) }
}

/// Whether a list, text or object has something in it.
pub(super) fn is_filled(value: &Value) -> bool {
    match value {
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

/// A number in `range`, or `default`.
pub(super) fn float(
    param: &str,
    value: Option<f64>,
    default: f32,
    range: RangeInclusive<f64>,
) -> Result<f32, ApiError> {
    match value {
        None => Ok(default),
        Some(value) if range.contains(&value) => Ok(value as f32),
        Some(value) => {
            Err(field(param, format!("is {value}, but must be from {} to {}", range.start(), range.end())))
        }
    }
}

/// A number of tokens to generate: at least 1. More than any context is as good as the largest number.
pub(super) fn tokens(param: &str, value: Option<u64>) -> Result<Option<u32>, ApiError> {
    match value {
        Some(0) => Err(field(param, "must be at least 1")),
        value => Ok(value.map(|n| u32::try_from(n).unwrap_or(u32::MAX))),
    }
}

/// A token id in digits alone.
pub(super) fn integer_text(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
