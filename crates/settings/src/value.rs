//! Reads single values within their ranges. The messages continue "`key` ".

use std::{collections::BTreeMap, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, de::Error};

use crate::size::parse_size;

/// Most entries of a map.
const MAX_PAIRS: usize = 256;

/// Most bytes of a model's name in one.
const MAX_NAME: usize = 256;

/// An integer from `MIN` to `MAX`.
pub(crate) fn number<'de, D, T, const MIN: u64, const MAX: u64>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let number = u64::deserialize(deserializer)
        .map_err(|_| D::Error::custom(format!("must be a whole number from {MIN} to {MAX}")))?;
    let in_range = (MIN..=MAX).contains(&number).then(|| T::try_from(number).ok()).flatten();
    in_range.ok_or_else(|| D::Error::custom(format!("is {number}, but must be from {MIN} to {MAX}")))
}

/// A time in milliseconds, from `MIN` to `MAX`.
pub(crate) fn millis<'de, D, const MIN: u64, const MAX: u64>(deserializer: D) -> Result<Duration, D::Error>
where
    D: Deserializer<'de>,
{
    number::<D, u64, MIN, MAX>(deserializer).map(Duration::from_millis)
}

/// A size in bytes, from `MIN` to `MAX`; see [`parse_size`].
pub(crate) fn bytes<'de, D, const MIN: u64, const MAX: u64>(deserializer: D) -> Result<u64, D::Error>
where
    D: Deserializer<'de>,
{
    // A number without quotes is read as it was written, too.
    let text = String::deserialize(deserializer)
        .map_err(|_| D::Error::custom("must be a number of bytes, or a number with a unit such as GiB"))?;
    let bytes = parse_size(&text).map_err(D::Error::custom)?;
    if !(MIN..=MAX).contains(&bytes) {
        let (min, max) = (ByteSize(MIN), ByteSize(MAX));
        return Err(D::Error::custom(format!("is {text}, but must be from {min} to {max}")));
    }
    Ok(bytes)
}

/// A size in bytes that is a power of two, from `MIN` to `MAX`.
pub(crate) fn power_of_two<'de, D, const MIN: u64, const MAX: u64>(deserializer: D) -> Result<u64, D::Error>
where
    D: Deserializer<'de>,
{
    let bytes = bytes::<D, MIN, MAX>(deserializer)?;
    if !bytes.is_power_of_two() {
        return Err(D::Error::custom(format!("is {bytes}, but must be a power of two")));
    }
    Ok(bytes)
}

/// A text that says something.
pub(crate) fn some_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
        return Err(D::Error::custom("is empty; give it a value or remove the line"));
    }
    Ok(text)
}

/// Models by models, each by its name or digest. A map whose keys are all commented out has no value, and is empty.
pub(crate) fn models<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let models = Option::<BTreeMap<String, String>>::deserialize(deserializer)?.unwrap_or_default();
    if models.len() > MAX_PAIRS {
        return Err(D::Error::custom(format!(
            "has {} entries, but at most {MAX_PAIRS} are possible",
            models.len()
        )));
    }
    for name in models.iter().flat_map(|(one, other)| [one, other]) {
        if name.trim().is_empty() {
            return Err(D::Error::custom("has an empty name"));
        }
        if name.len() > MAX_NAME {
            return Err(D::Error::custom(format!("has a name of more than {MAX_NAME} bytes")));
        }
    }
    Ok(models)
}

/// A section. One whose keys are all commented out has no value, and means the defaults.
pub(crate) fn section<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
