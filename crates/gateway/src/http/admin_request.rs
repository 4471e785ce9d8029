//! Fields of requests to load and unload. Unknown ones are refused: no other server has these requests.

use std::time::Duration;

use serde::{Deserialize, de::DeserializeOwned};

use super::{
    error::ApiError,
    json::{Whole, field, parse},
};
use crate::config::MAX_WORKERS;

/// Of a request to load.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LoadFields {
    workers: Option<Whole>,
}

/// Of a request to unload.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UnloadFields {
    drain_timeout_ms: Option<Whole>,
}

impl LoadFields {
    pub(super) fn read(body: &[u8]) -> Result<Self, ApiError> {
        read(body)
    }

    /// How many workers the model gets.
    pub(super) fn workers(&self) -> Result<Option<usize>, ApiError> {
        match self.workers {
            None => Ok(None),
            Some(Whole(workers)) if (1..=i128::from(MAX_WORKERS)).contains(&workers) => {
                Ok(Some(workers as usize))
            }
            Some(Whole(workers)) => {
                Err(field("workers", format!("is {workers}, but must be from 1 to {MAX_WORKERS}")))
            }
        }
    }
}

impl UnloadFields {
    pub(super) fn read(body: &[u8]) -> Result<Self, ApiError> {
        read(body)
    }

    /// How long streams may go on.
    pub(super) fn drain_timeout(&self) -> Result<Option<Duration>, ApiError> {
        let Some(Whole(millis)) = self.drain_timeout_ms else { return Ok(None) };
        let millis = u64::try_from(millis);
        millis
            .map(|it| Some(Duration::from_millis(it)))
            .map_err(|_| field("drain_timeout_ms", "must be a number of milliseconds, at least 0"))
    }
}

/// No body is as good as an empty object.
fn read<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() { Ok(T::default()) } else { parse(body) }
}
