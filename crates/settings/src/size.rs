//! Sizes in bytes, as people write them.

use bytesize::ByteSize;

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// It is not a number with an optional unit.
    #[error(
        "is `{0}`, but must be a number of bytes, or a number with a unit: KiB, MiB, GiB or TiB (powers of 1024), kB, \
         MB, GB or TB (powers of 1000)"
    )]
    Malformed(String),
    /// It does not fit into 64 bits.
    #[error("is `{0}`, but must be less than 16 EiB")]
    TooLarge(String),
}

/// Reads a number of bytes: `1048576`, `100GiB`, `1.5 MB`, `1_024 KiB`.
///
/// Units are those of the [`bytesize`] crate, in any case. Underscores may separate digits, as in YAML.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let malformed = || SizeError::Malformed(text.to_owned());
    let plain = without_underscores(text.trim()).ok_or_else(malformed)?;
    // A fraction of a byte means nothing.
    let unit = plain.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim_start();
    if plain.contains('.') && unit.eq_ignore_ascii_case("b") {
        return Err(malformed());
    }
    if plain.bytes().all(|byte| byte.is_ascii_digit()) && !plain.is_empty() {
        return plain.parse().map_err(|_| SizeError::TooLarge(text.to_owned()));
    }
    let size: ByteSize = plain.parse().map_err(|_: String| malformed())?;
    match size.as_u64() {
        // What does not fit is read as the largest number.
        u64::MAX => Err(SizeError::TooLarge(text.to_owned())),
        bytes => Ok(bytes),
    }
}

/// `None` if an underscore is anywhere but between two digits.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let misplaced = |at: usize| !digit(at.checked_sub(1)) || !digit(Some(at + 1));
    if text.match_indices('_').any(|(at, _)| misplaced(at)) {
        return None;
    }
    Some(text.replace('_', ""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            (" 100GiB ", 100 << 30),
            ("2 TiB", 2 << 40),
            ("1.5GiB", 3 << 29),
            ("1GB", 1_000_000_000),
            ("200kB", 200_000),
            ("1_024 KiB", 1 << 20),
            ("1_024", 1024),
            ("64mib", 64 << 20),
            ("7 B", 7),
            ("9007199254740993", 9_007_199_254_740_993),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            " ",
            "GiB",
            "1.5",
            "1.5B",
            "-1",
            "1.2.3MiB",
            "10 bananas",
            "_1",
            "1_",
            "1__0",
            "1_KiB",
            "1_.5KiB",
            "0x10",
            "1e9",
            "\u{661}KiB",
            "1 GiB GiB",
        ] {
            assert_eq!(parse_size(text), Err(SizeError::Malformed(text.to_owned())), "{text}");
        }
        for text in ["18446744073709551616", "99999999999999999999", "99999999TiB", "16EiB"] {
            assert_eq!(parse_size(text), Err(SizeError::TooLarge(text.to_owned())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_number_means_itself(bytes in 0..u64::MAX) {
            prop_assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
            prop_assert_eq!(parse_size(&format!("{bytes} B")), Ok(bytes));
        }

        #[test]
        fn a_unit_multiplies(number in 0_u64..1 << 24, power in 1_u32..4) {
            let [binary, decimal] = [["", "KiB", "MiB", "GiB"], ["", "kB", "MB", "GB"]].map(|units| units[power as usize]);
            prop_assert_eq!(parse_size(&format!("{number}{binary}")), Ok(number * 1024_u64.pow(power)));
            prop_assert_eq!(parse_size(&format!("{number} {decimal}")), Ok(number * 1000_u64.pow(power)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,12}|[0-9_. kKMGTiB]{0,12}") {
            let _ = parse_size(&text);
        }
    }
}
