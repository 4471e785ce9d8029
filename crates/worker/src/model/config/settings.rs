//! Reading single settings of a `config.json`, in every form in which programs write them: a whole number may come as
//! `4096.0`, a float as `8`, a flag as 0 or 1, and `null` means that nothing is said.

use artifact_store::python_json::as_float;
use serde_json::{Map, Value};

use super::ModelError;

/// What numbers are where a configuration does not name them; a flag is 0 or 1.
pub(in crate::model) type Defaults = &'static [(&'static str, f64)];

/// An object of the configuration.
#[derive(Clone, Copy)]
pub(in crate::model) struct Settings<'a> {
    values: &'a Map<String, Value>,
    /// Where it stands, for errors: the `rope_scaling` of `rope_scaling.factor`.
    place: &'a str,
    defaults: Defaults,
}

impl<'a> Settings<'a> {
    /// The whole configuration.
    pub(in crate::model) fn new(config: &'a Value) -> Result<Self, ModelError> {
        match config {
            Value::Object(values) => Ok(Self { values, place: "", defaults: &[] }),
            other => Err(wrong_type("config.json".to_owned(), other, "an object")),
        }
    }

    /// The object that a setting is.
    pub(in crate::model) fn object(self, name: &'a str) -> Result<Option<Self>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            // What stands for a number is an object, too.
            Some(value @ Value::Object(values)) if as_float(value).is_none() => {
                Ok(Some(Self { values, place: name, defaults: &[] }))
            }
            Some(other) => Err(self.wrong(name, other, "an object")),
        }
    }

    /// The same with what its numbers are where nothing is said.
    pub(in crate::model) fn with_defaults(self, defaults: Defaults) -> Self {
        Self { defaults, ..self }
    }

    /// What is said of the model of text, which stands in an object of its own where there are others beside it.
    pub(in crate::model) fn of_text(self) -> Result<Self, ModelError> {
        Ok(self.object("text_config")?.map_or(self, |text| text.with_defaults(self.defaults)))
    }

    /// Whether anything stands there, even if that is nothing.
    pub(in crate::model) fn mentions(self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub(in crate::model) fn is_empty(self) -> bool {
        self.values.is_empty()
    }

    /// Names and values of everything in it.
    pub(in crate::model) fn iter(self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.values.iter()
    }

    /// A setting that says something.
    pub(in crate::model) fn get(self, name: &str) -> Option<&'a Value> {
        self.values.get(name).filter(|value| !value.is_null())
    }

    /// A whole number from `least` to `most`.
    pub(in crate::model) fn whole(
        self,
        name: &str,
        least: i32,
        most: i32,
    ) -> Result<Option<i32>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(self.default(name).map(|number| number as i32)) };
        // Numbers up to 2^53 are whole in float64; the limits end far below.
        let number = as_float(value).filter(|number| number.fract() == 0.0 || !number.is_finite());
        let number = number.ok_or_else(|| self.wrong(name, value, "a whole number"))?;
        if !(f64::from(least)..=f64::from(most)).contains(&number) {
            let expected = format!("a number from {least} to {most}");
            return Err(ModelError::BadSetting { setting: self.path(name), value: shown(value), expected });
        }
        Ok(Some(number as i32))
    }

    /// A finite number from `least` to `most`.
    pub(in crate::model) fn number(
        self,
        name: &str,
        least: f64,
        most: f64,
    ) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(self.default(name)) };
        let number = as_float(value).ok_or_else(|| self.wrong(name, value, "a number"))?;
        if !(least..=most).contains(&number) {
            let expected = format!("a number from {least:e} to {most:e}");
            return Err(ModelError::BadSetting { setting: self.path(name), value: shown(value), expected });
        }
        Ok(Some(number))
    }

    /// A flag.
    pub(in crate::model) fn flag(self, name: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(self.default(name).map(|number| number != 0.0)) };
        self.as_flag(name, value).map(Some)
    }

    /// A flag that stands somewhere in what `name` is.
    pub(in crate::model) fn as_flag(self, name: &str, value: &Value) -> Result<bool, ModelError> {
        match (value, value.as_f64()) {
            (Value::Bool(flag), _) => Ok(*flag),
            (_, Some(number)) if number == 0.0 || number == 1.0 => Ok(number == 1.0),
            _ => Err(self.wrong(name, value, "true or false")),
        }
    }

    /// Numbers that count from 0, if they are that.
    pub(in crate::model) fn indices(value: &Value) -> Option<Vec<usize>> {
        let index = |value: &Value| usize::try_from(value.as_u64()?).ok();
        value.as_array()?.iter().map(index).collect()
    }

    /// Text.
    pub(in crate::model) fn text(self, name: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, value, "a text"))
    }

    /// Refuses a setting whose value this worker does not cover.
    pub(in crate::model) fn refuse<T>(self, name: &str, value: impl ToString) -> Result<T, ModelError> {
        Err(ModelError::UnsupportedSetting { setting: self.path(name), value: cut(value.to_string()) })
    }

    /// `null` says that there is none.
    fn default(self, name: &str) -> Option<f64> {
        if self.mentions(name) {
            return None;
        }
        self.defaults.iter().find(|(of, _)| *of == name).map(|(_, number)| *number)
    }

    fn wrong(self, name: &str, value: &Value, expected: &str) -> ModelError {
        wrong_type(self.path(name), value, expected)
    }

    fn path(self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }
}

fn wrong_type(setting: String, value: &Value, expected: &str) -> ModelError {
    let expected = format!("{expected} (invalid type)");
    ModelError::BadSetting { setting, value: shown(value), expected }
}

/// A value as it stands in the file, or its beginning.
fn shown(value: &Value) -> String {
    let text = match as_float(value) {
        Some(number) if !number.is_finite() => number.to_string(),
        _ => value.to_string(),
    };
    cut(text)
}

/// The beginning of a long text.
fn cut(text: String) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
