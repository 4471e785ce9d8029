//! How urgent a request is, and how long it may take.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, Unexpected, Visitor},
};

use super::fields::Fields;
use crate::{
    http::{
        error::ApiError,
        json::{Number, field},
        terms::MAX_TIMEOUT,
    },
    serve::Priority,
};

/// A priority, as a name or as a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Urgency(pub(super) Priority);

impl Fields {
    pub(super) fn priority(&self) -> Priority {
        self.priority.map_or(Priority::default(), |Urgency(priority)| priority)
    }

    /// In seconds, as LiteLLM has it.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        let Some(Number(seconds)) = self.timeout else { return Ok(None) };
        let timeout = Duration::try_from_secs_f64(seconds).ok();
        let usable = timeout.filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT);
        let problem = || format!("is {seconds}, but must be a number of seconds, above 0 and up to a day's");
        usable.ok_or_else(|| field("timeout", problem())).map(Some)
    }
}

impl<'de> Deserialize<'de> for Urgency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Urgencies;
        impl Visitor<'_> for Urgencies {
            type Value = Urgency;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`high`, `normal`, `low` or a whole number")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Urgency, E> {
                Ok(Urgency(Priority::clamped(value.into())))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Urgency, E> {
                Ok(Urgency(Priority::clamped(value.into())))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Urgency, E> {
                if value.fract() == 0.0 {
                    return Ok(Urgency(Priority::clamped(value as i128)));
                }
                Err(E::invalid_value(Unexpected::Float(value), &self))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Urgency, E> {
                let priority = value.parse().map_err(|_| E::invalid_value(Unexpected::Str(value), &self))?;
                Ok(Urgency(priority))
            }
        }
        deserializer.deserialize_any(Urgencies)
    }
}
