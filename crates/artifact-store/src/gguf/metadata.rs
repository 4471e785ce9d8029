//! The key-value part of a GGUF file.

use std::collections::HashMap;

use super::GgufError;

/// A metadata value; integers of all widths are one kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    /// Of both float types. A 32-bit one is read as its shortest decimal:
    /// 1e-5 stays 1e-5.
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Vec<Value>),
}

/// All metadata of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    values: HashMap<String, Value>,
}

impl Metadata {
    /// False if the key is there already.
    pub(crate) fn insert(&mut self, key: String, value: Value) -> bool {
        self.values.insert(key, value).is_none()
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.get(key, Value::as_text)
    }

    pub(crate) fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.get(key, Value::as_unsigned)
    }

    /// A number of a float type that is more than zero and finite, also as the `f32` that it is computed with.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, GgufError> {
        let Some(number) = self.get(key, Value::as_float)? else { return Ok(None) };
        let computed = number as f32;
        if computed.is_finite() && computed > 0.0 {
            return Ok(Some(number));
        }
        Err(GgufError::Damaged(format!("`{key}` is {number}, which is not a positive number")))
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.get(key, |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// An array of strings.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, GgufError> {
        self.get(key, |value| value.as_array()?.iter().map(Value::as_text).collect())
    }

    /// An array of finite numbers of a float type.
    pub(crate) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>, GgufError> {
        let floats: Option<Vec<f64>> =
            self.get(key, |value| value.as_array()?.iter().map(Value::as_float).collect())?;
        match floats.iter().flatten().find(|number| !number.is_finite()) {
            Some(number) => {
                Err(GgufError::Damaged(format!("`{key}` has {number}, which is not a finite number")))
            }
            None => Ok(floats),
        }
    }

    /// An array of integers that are not negative.
    pub(crate) fn unsigneds(&self, key: &str) -> Result<Option<Vec<u64>>, GgufError> {
        self.get(key, |value| value.as_array()?.iter().map(Value::as_unsigned).collect())
    }

    /// `None` if the key is absent, an error if `read` does not like its value.
    pub(super) fn get<'a, T>(
        &'a self,
        key: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| GgufError::WrongType(key.to_owned()))
    }
}

impl Value {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(*number),
            Self::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }
}

/// Turns "absent" into an error that names the key.
pub(crate) fn required<T>(value: Option<T>, key: &str) -> Result<T, GgufError> {
    value.ok_or_else(|| GgufError::MissingKey(key.to_owned()))
}
