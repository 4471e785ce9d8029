//! The arguments of a Python method, by place or by name.

use minijinja::{
    Error, Value,
    value::{Kwargs, ValueKind},
};

use super::values::{failed, type_name};

/// What a method was called with.
pub(super) struct Arguments<'a> {
    places: &'a [Value],
    names: Option<Kwargs>,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(arguments: &'a [Value]) -> Result<Self, Error> {
        match arguments.split_last() {
            Some((last, places)) if last.is_kwargs() => {
                Ok(Self { places, names: Some(Kwargs::try_from(last.clone())?) })
            }
            _ => Ok(Self { places: arguments, names: None }),
        }
    }

    /// The argument, if it was given and is not `None`.
    pub(super) fn get(&self, at: usize, name: &str) -> Option<Value> {
        let named = || self.names.as_ref().and_then(|names| names.get::<Option<Value>>(name).ok().flatten());
        self.places.get(at).cloned().or_else(named).filter(|value| !value.is_none())
    }

    pub(super) fn text(&self, at: usize, name: &str) -> Result<Option<String>, Error> {
        let Some(value) = self.get(at, name) else { return Ok(None) };
        match value.as_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(failed(format!("argument {name} must be str, not {}", type_name(&value)))),
        }
    }

    pub(super) fn required_text(&self, at: usize, name: &str) -> Result<String, Error> {
        self.text(at, name)?.ok_or_else(|| failed(format!("argument {name} is missing")))
    }

    pub(super) fn integer(&self, at: usize, name: &str) -> Result<Option<i64>, Error> {
        let Some(value) = self.get(at, name) else { return Ok(None) };
        match value.as_i64() {
            Some(number) => Ok(Some(number)),
            None if value.kind() == ValueKind::Bool => Ok(Some(i64::from(value.is_true()))),
            None => Err(failed(format!("argument {name} must be int, not {}", type_name(&value)))),
        }
    }

    pub(super) fn flag(&self, at: usize, name: &str) -> bool {
        self.get(at, name).is_some_and(|value| value.is_true())
    }

    /// At most `count` arguments may be given.
    pub(super) fn at_most(&self, count: usize) -> Result<(), Error> {
        if self.places.len() > count {
            return Err(failed(format!("expected at most {count} arguments, got {}", self.places.len())));
        }
        Ok(())
    }
}
