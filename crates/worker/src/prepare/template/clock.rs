//! `strftime_now`: today's date in the prompt.

use std::sync::Arc;

use jiff::{
    ZonedDateTime,
    civil::DateTime,
    fmt::strtime::{BrokenDownTime, Config, PosixCustom},
};

/// Longest format: the result has at most about twenty times as many bytes.
const MAX_FORMAT: usize = 1000;

/// Tells the local time.
pub type Clock = Arc<dyn Fn() -> DateTime + Send + Sync>;

/// The machine's local time.
pub(super) fn local() -> Clock {
    Arc::new(|| ZonedDateTime::now().datetime())
}

/// Python's `datetime.strftime`, in the C locale.
pub(super) fn strftime(now: DateTime, format: &str) -> Result<String, String> {
    if format.len() > MAX_FORMAT {
        return Err(format!("strftime_now: a format has at most {MAX_FORMAT} bytes"));
    }
    // Python writes these itself; a time without a zone has nothing for the last two.
    let micros = format!("{:06}", now.subsec_nanosecond() / 1000);
    let mut plain = String::with_capacity(format.len());
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('f') => plain.push_str(&micros),
            Some('z' | 'Z') => {}
            Some('#') if matches!(chars.peek(), Some('Z')) => drop(chars.next()),
            Some(other) => plain.extend(['%', other]),
            // The C library writes a lone one as it is.
            None => plain.push_str("%%"),
        }
    }
    let config = Config::new().custom(PosixCustom::new()).lenient(true);
    BrokenDownTime::from(now)
        .to_string_with_config(&config, &plain)
        .map_err(|error| format!("strftime_now: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::civil::date;

    use super::*;

    #[test]
    fn formats_are_pythons() {
        let now = date(2026, 2, 3).at(14, 5, 6, 789_000);
        for (format, text) in [
            ("%d %b %Y", "03 Feb 2026"),
            ("%Y-%m-%dT%H:%M:%S.%f%z%Z", "2026-02-03T14:05:06.000789"),
            ("%A, %B %-d %I %p", "Tuesday, February 3 02 PM"),
            ("%c|%x|%X", "Tue Feb  3 14:05:06 2026|02/03/26|14:05:06"),
            ("100%% é %", "100% é %"),
        ] {
            assert_eq!(strftime(now, format).unwrap(), text);
        }
        assert!(strftime(now, &"%c".repeat(MAX_FORMAT)).is_err());
    }
}
