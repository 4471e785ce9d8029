//! JSON as clients write it, whichever dialect they speak: one pass, no value kept that can't be used, and errors that
//! name the field and the place.

mod check;
mod object;
mod probe;
mod values;

use serde::de::DeserializeOwned;

pub(super) use self::{
    check::{field, float, one_of, unsupported},
    object::Object,
    probe::Probe,
    values::{Flag, Key, Number, Text, Texts, Whole},
};
use super::error::ApiError;

/// Reads a body that is one JSON object.
///
/// # Errors
/// If it is not, or if a field in it has the wrong type; the error names that field.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(body).map_err(|e| ApiError::NotUtf8(e.valid_up_to()))?;
    // Some programs begin every text with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut json = serde_json::Deserializer::from_str(text);
    let Object(parsed) = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        let error = e.into_inner();
        match error.classify() {
            serde_json::error::Category::Data if path == "." => {
                ApiError::Field { param: None, message: format!("the body: {}", check::reword(&error)) }
            }
            serde_json::error::Category::Data => field(&path, check::reword(&error)),
            _ => ApiError::Json(error),
        }
    })?;
    json.end().map_err(ApiError::Json)?;
    Ok(parsed)
}
