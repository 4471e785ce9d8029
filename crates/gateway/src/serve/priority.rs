//! How urgent a request is.

use std::str::FromStr;

/// How urgent a request is: a lower number is served earlier, as in vLLM's API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub i32);

/// What is not a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be `high`, `normal`, `low`, or a whole number, of which lower ones are served earlier")]
pub struct NotAPriority;

impl Priority {
    /// One step before what has no priority.
    pub const HIGH: Self = Self(-1);
    /// Of what has none.
    pub const NORMAL: Self = Self(0);
    /// One step behind what has no priority.
    pub const LOW: Self = Self(1);

    /// Whether it is served before what has none.
    pub fn is_high(self) -> bool {
        self < Self::NORMAL
    }

    /// Of a number of any size: what is beyond the range is as urgent as its end.
    pub fn clamped(number: i128) -> Self {
        Self(number.clamp(i32::MIN.into(), i32::MAX.into()) as i32)
    }
}

impl FromStr for Priority {
    type Err = NotAPriority;

    /// A name, or the digits of a number.
    fn from_str(text: &str) -> Result<Self, NotAPriority> {
        let text = text.trim();
        for (name, priority) in [("high", Self::HIGH), ("normal", Self::NORMAL), ("low", Self::LOW)] {
            if text.eq_ignore_ascii_case(name) {
                return Ok(priority);
            }
        }
        text.parse().map(Self::clamped).map_err(|_| NotAPriority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_priorities() {
        for (text, expected) in [
            ("high", Some(Priority::HIGH)),
            (" Normal ", Some(Priority::default())),
            ("LOW", Some(Priority::LOW)),
            ("-7", Some(Priority(-7))),
            ("99999999999", Some(Priority(i32::MAX))),
            ("", None),
            ("urgent", None),
            ("1.5", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        }
        assert!(Priority::HIGH < Priority::NORMAL && Priority::NORMAL < Priority::LOW);
    }
}
