//! Fields of an administrator's requests. Unknown ones are refused: no other server has these requests.

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

/// Of a request to restart a worker, or to reload a model.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RestartFields {
    drain_timeout_ms: Option<Whole>,
    timeout_ms: Option<Whole>,
}

/// Of a request that has none.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NoFields {}

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
        millis("drain_timeout_ms", self.drain_timeout_ms)
    }
}

impl RestartFields {
    pub(super) fn read(body: &[u8]) -> Result<Self, ApiError> {
        read(body)
    }

    /// How long streams may go on on a process that is about to end.
    pub(super) fn drain_timeout(&self) -> Result<Option<Duration>, ApiError> {
        millis("drain_timeout_ms", self.drain_timeout_ms)
    }

    /// How long the answer may take.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        millis("timeout_ms", self.timeout_ms)
    }
}

impl NoFields {
    pub(super) fn read(body: &[u8]) -> Result<Self, ApiError> {
        read(body)
    }
}

/// Longest time that may be asked for: clocks can't count on forever.
const MAX_MILLIS: u64 = 24 * 3_600_000;

fn millis(name: &str, value: Option<Whole>) -> Result<Option<Duration>, ApiError> {
    let Some(Whole(millis)) = value else { return Ok(None) };
    match u64::try_from(millis) {
        Ok(millis) if millis <= MAX_MILLIS => Ok(Some(Duration::from_millis(millis))),
        _ => Err(field(name, format!("must be a number of milliseconds, from 0 to {MAX_MILLIS}"))),
    }
}

/// No body is as good as an empty object.
fn read<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() { Ok(T::default()) } else { parse(body) }
}
