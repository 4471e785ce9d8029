//! JSON as Python's `json` module writes and reads it: with `NaN`, `Infinity` and `-Infinity`, which JSON lacks.
//!
//! Configurations on the Hugging Face Hub have them, for example `"time_step_limit": [0.0, Infinity]`. A [`Value`] can't
//! hold such a number, so it becomes the object that transformers itself uses where JSON has to be strict:
//! `{"__float__": "Infinity"}`. A reader that expects a number there fails, and is not given another number;
//! [`as_float`] gives the number.

use std::borrow::Cow;

use serde_json::Value;

/// Deepest nesting of lists and objects. It leaves room for what such a value is put into before it is read again:
/// serde_json stops at 128.
pub const MAX_DEPTH: usize = 64;

/// The key of an object that stands for a number.
const FLOAT_KEY: &str = "__float__";
/// The words for these numbers.
const FLOATS: [(&str, f64); 3] =
    [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)];

/// Why a text is not JSON that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PythonJsonError {
    /// It is not JSON, even with Python's additions.
    #[error("it is not JSON")]
    Syntax(#[from] serde_json::Error),
    /// Its lists and objects are nested more than [`MAX_DEPTH`] deep.
    #[error("its lists and objects are nested more than {MAX_DEPTH} deep")]
    TooDeep,
}

impl PythonJsonError {
    /// Why a file is not JSON that can be used, in one line.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Syntax(source) => format!("{self}: {source}"),
            other => other.to_string(),
        }
    }
}

/// Reads a text of at most [`MAX_DEPTH`] levels. Takes memory in proportion to its length.
///
/// # Errors
/// If the text is not JSON, or is nested too deep.
pub fn from_slice(text: &[u8]) -> Result<Value, PythonJsonError> {
    Ok(serde_json::from_slice(&strict(text)?)?)
}

/// The number that a value is, also of one that JSON can't write.
pub fn as_float(value: &Value) -> Option<f64> {
    if let Some(number) = value.as_f64() {
        return Some(number);
    }
    let object = value.as_object().filter(|object| object.len() == 1)?;
    let word = object.get(FLOAT_KEY)?.as_str()?;
    FLOATS.iter().find(|(known, _)| *known == word).map(|(_, number)| *number)
}

/// The text with Python's numbers as objects. Everything else about it is checked by the one that reads it.
fn strict(text: &[u8]) -> Result<Cow<'_, [u8]>, PythonJsonError> {
    let mut out = Vec::new();
    // What of the text is in `out` already, and where reading is.
    let (mut copied, mut at, mut depth) = (0, 0, 0_usize);
    while let Some(&byte) = text.get(at) {
        let start = at;
        at = match byte {
            b'"' => end_of_string(text, start),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => end_of_word(text, start),
            _ => start + 1,
        };
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {
                if let Some(name) = float_name(&text[start..at]) {
                    out.extend_from_slice(&text[copied..start]);
                    out.extend_from_slice(format!("{{\"{FLOAT_KEY}\":\"{name}\"}}").as_bytes());
                    copied = at;
                }
            }
        }
        if depth > MAX_DEPTH {
            return Err(PythonJsonError::TooDeep);
        }
    }
    if copied == 0 {
        return Ok(text.into());
    }
    out.extend_from_slice(&text[copied..]);
    Ok(out.into())
}

/// Where the string that begins at `start` is over.
fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// Where the number or name that begins at `start` is over.
fn end_of_word(text: &[u8], start: usize) -> usize {
    let of_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._".contains(byte);
    text[start..].iter().position(|byte| !of_word(byte)).map_or(text.len(), |len| start + len)
}

/// Which number of [`FLOATS`] a word is: by name, or because it is too large for a float, as Python reads it.
fn float_name(word: &[u8]) -> Option<&'static str> {
    let word = std::str::from_utf8(word).ok()?;
    if let Some((name, _)) = FLOATS.iter().find(|(name, _)| *name == word) {
        return Some(name);
    }
    // Rust reads names of such numbers too, which JSON does not have.
    if !word.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    match word.parse() {
        Ok(f64::INFINITY) => Some("Infinity"),
        Ok(f64::NEG_INFINITY) => Some("-Infinity"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        from_slice(text.as_bytes()).unwrap()
    }

    #[test]
    fn numbers_that_only_python_writes_are_read() {
        let value = read(r#"{"a": NaN, "b": [Infinity, -Infinity], "c": 1e999, "d": -1E+400, "e": 1e-5}"#);
        assert!(as_float(&value["a"]).unwrap().is_nan());
        let places = [&value["b"][0], &value["b"][1], &value["c"], &value["d"], &value["e"]];
        let numbers = places.map(|place| as_float(place).unwrap());
        assert_eq!(numbers, [f64::INFINITY, f64::NEG_INFINITY, f64::INFINITY, f64::NEG_INFINITY, 1e-5]);
        assert_eq!(value["b"][0], json!({ "__float__": "Infinity" }));
        assert_eq!(as_float(&read("Infinity")), Some(f64::INFINITY));
    }

    #[test]
    fn they_are_no_numbers_for_readers_that_do_not_know_them() {
        assert_eq!(read("[NaN]")[0].as_f64(), None);
        assert!(serde_json::from_value::<f32>(read("Infinity")).is_err());
        for value in
            [json!("NaN"), json!({ "__float__": "1" }), json!({ "__float__": "NaN", "x": 1 }), json!(null)]
        {
            assert_eq!(as_float(&value), None, "{value}");
        }
    }

    #[test]
    fn strings_stay_as_they_are() {
        for text in [r#""NaN""#, r#""a \" NaN, [[[ \\""#, r#"{"Infinity": "-Infinity"}"#, r#""\\\" NaN""#] {
            assert_eq!(read(text), serde_json::from_str::<Value>(text).unwrap());
        }
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for text in [
            "",
            "nan",
            "inf",
            "infinity",
            "-NaN",
            "+Infinity",
            "NaNs",
            "- Infinity",
            "[NaN",
            "{NaN: 1}",
            "NaN NaN",
            "1e999x",
            "[1,]",
            "\"NaN",
            "True",
        ] {
            assert!(from_slice(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(from_slice(&nested(MAX_DEPTH)).is_ok());
        for depth in [MAX_DEPTH + 1, 1 << 20] {
            assert!(matches!(from_slice(&nested(depth)), Err(PythonJsonError::TooDeep)));
        }
        let alternating = r#"{"a":["#.repeat(MAX_DEPTH);
        assert!(matches!(from_slice(alternating.as_bytes()), Err(PythonJsonError::TooDeep)));
    }

    proptest! {
        #[test]
        fn plain_json_is_read_as_it_is(numbers in prop::collection::vec(any::<f64>(), 0..9), text in ".{0,40}") {
            let value = json!({ "numbers": numbers, "text": text, "more": [[true, null], { "x": 1 }] });
            prop_assert_eq!(read(&value.to_string()), serde_json::from_str::<Value>(&value.to_string()).unwrap());
        }

        #[test]
        fn anything_is_read_or_refused(text in prop::collection::vec(prop_oneof![
            any::<u8>(), prop::sample::select(b"[]{}\",:\\ NaInfity-+1e9.".to_vec()),
        ], 0..60)) {
            let _ = from_slice(&text);
        }
    }
}
