//! Small checks of values, and what their errors say.

use std::{fmt::Display, ops::RangeInclusive};

use super::values::Number;
use crate::http::error::ApiError;

/// A field is wrong; `problem` continues the sentence after its name.
pub(in crate::http) fn field(param: &str, problem: impl Display) -> ApiError {
    ApiError::Field { param: Some(param.to_owned()), message: format!("`{param}`: {problem}") }
}

/// A field asks for `what`, which can't be done.
pub(in crate::http) fn unsupported(param: &str, what: impl Into<String>) -> ApiError {
    ApiError::Unsupported { param: param.to_owned(), what: what.into() }
}

/// A number in `range`, or `default`.
pub(in crate::http) fn float(
    param: &str,
    value: Option<Number>,
    default: f32,
    range: RangeInclusive<f64>,
) -> Result<f32, ApiError> {
    match value {
        None => Ok(default),
        Some(Number(value)) if range.contains(&value) => Ok(value as f32),
        Some(Number(value)) => {
            Err(field(param, format!("is {value}, but must be from {} to {}", range.start(), range.end())))
        }
    }
}

/// The same thing under several names: all that are given must agree.
pub(in crate::http) fn one_of<T: PartialEq + Copy>(
    values: &[(&'static str, Option<T>)],
    show: impl Fn(T) -> String,
) -> Result<Option<(&'static str, T)>, ApiError> {
    let mut given = values.iter().filter_map(|(name, value)| value.map(|value| (*name, value)));
    let Some((name, value)) = given.next() else { return Ok(None) };
    match given.find(|(_, other)| *other != value) {
        Some((other, differs)) => {
            let (is, but) = (show(value), show(differs));
            Err(field(name, format!("is {is}, but `{other}` is {but}: send one of them")))
        }
        None => Ok(Some((name, value))),
    }
}

/// What serde says about a value, in JSON's terms.
pub(super) fn reword(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!("line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&format!(" at {place}")).unwrap_or(&text);
    let given = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "));
    match given.and_then(|given| given.rsplit_once(", expected ")) {
        Some((given, expected)) => format!("must be {expected}, not {} ({place})", name(given)),
        None => format!("{text} ({place})"),
    }
}

/// A value as serde names it, in JSON's terms.
fn name(given: &str) -> String {
    let (kind, value) = given.split_once(' ').unwrap_or((given, ""));
    let value = value.trim_start_matches("point ").trim_matches('`');
    match kind {
        "map" => "an object".into(),
        "sequence" => "a list".into(),
        "string" => format!("the string {}", &value[..value.floor_char_boundary(60)]),
        "boolean" | "integer" | "floating" => value.to_owned(),
        _ => given.to_owned(),
    }
}
