//! Text that others wrote, in messages for people.

use std::{borrow::Cow, fmt::Write, path::Path};

/// Longest foreign text inside one message, in characters.
const MAX_REASON: usize = 2000;

/// `text` as it may appear in an error, in a log line or on a terminal: control characters, and characters that
/// change the order or the lines of the text around them, are escaped as in Rust (`\n`, `\u{1b}`).
///
/// Names, paths and metadata that come with a model can hold such characters, with which they could forge log lines
/// or command a terminal.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unsafe(character) {
            // Writing to a string does not fail.
            let _ = write!(escaped, "{}", character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// A path inside a message.
pub(crate) fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy()).into_owned()
}

/// A reason inside a message, which may quote a file at any length.
pub(crate) fn reason(text: &str) -> String {
    match text.char_indices().nth(MAX_REASON) {
        None => printable(text).into_owned(),
        Some((end, _)) => format!("{}…", printable(&text[..end])),
    }
}

fn is_unsafe(character: char) -> bool {
    character.is_control()
        // Line and paragraph separators, and what sets the direction of text.
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_text_is_left_as_it_is() {
        for text in ["", "model-00001-of-00002.safetensors", "Übung 日本語 🙂", "C:\\x", "a 'b' \"c\""]
        {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn what_commands_a_terminal_or_forges_a_line_is_escaped() {
        let table = [
            ("a\nb", "a\\nb"),
            ("a\r\tb", "a\\r\\tb"),
            ("\x1b]0;x\x07", "\\u{1b}]0;x\\u{7}"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("x\u{202e}txt.exe", "x\\u{202e}txt.exe"),
            ("a\u{2028}b", "a\\u{2028}b"),
        ];
        for (text, expected) in table {
            assert_eq!(printable(text), expected);
            assert_eq!(shown(Path::new(text)), expected);
        }
    }

    #[test]
    fn a_long_reason_is_cut() {
        let cut = reason(&"ä\n".repeat(MAX_REASON));
        assert_eq!(cut.chars().count(), MAX_REASON / 2 * 3 + 1);
        assert!(cut.ends_with('…'));
        assert_eq!(reason("short"), "short");
    }

    proptest! {
        #[test]
        fn the_result_has_nothing_left_to_escape(text in any::<String>()) {
            let once = printable(&text).into_owned();
            prop_assert!(!once.chars().any(is_unsafe));
            prop_assert_eq!(printable(&once), once.as_str());
        }
    }
}
