//! Fields of requests to load and unload. Unknown ones are refused: nobody else speaks this part.

use serde::{Deserialize, de::DeserializeOwned};

use super::{check::field, parse};
use crate::{config::MAX_WORKERS, http::error::ApiError};

/// Of a request to load.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::http) struct LoadFields {
    workers: Option<u64>,
}

/// Of a request to unload.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::http) struct UnloadFields {
    /// How long streams may go on.
    pub(in crate::http) drain_timeout_ms: Option<u64>,
}

impl LoadFields {
    pub(in crate::http) fn read(body: &[u8]) -> Result<Self, ApiError> {
        read(body)
    }

    /// How many workers the model gets.
    pub(in crate::http) fn workers(&self) -> Result<Option<usize>, ApiError> {
        match self.workers {
            None => Ok(None),
            Some(workers @ 1..=MAX_WORKERS) => Ok(Some(workers as usize)),
            Some(workers) => {
                Err(field("workers", format!("is {workers}, but must be from 1 to {MAX_WORKERS}")))
            }
        }
    }
}

impl UnloadFields {
    pub(in crate::http) fn read(body: &[u8]) -> Result<Self, ApiError> {
        read(body)
    }
}

/// No body is as good as an empty object.
fn read<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() { Ok(T::default()) } else { parse(body) }
}
