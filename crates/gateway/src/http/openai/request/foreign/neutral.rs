//! Values that ask for what happens anyway.

use crate::http::json::Probe;

/// Values that ask for nothing. Null, which is also a missing field, never does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::http::openai::request) enum Neutral {
    /// No other value.
    Null,
    /// An empty list, object or text; also false and zero.
    Off,
    /// True.
    True,
    /// This number. For text generation the fields with one ask for nothing at 0 as well.
    Number(f64),
    /// Any of these words.
    Words(&'static [&'static str]),
    /// A list of this word alone.
    Only(&'static str),
    /// Every value: the answer does not depend on it.
    Any,
}

use Neutral::{Any, Null, Number, Off, Only, True, Words};

impl Neutral {
    /// Whether `value` asks for nothing.
    pub(super) fn covers(self, value: &Probe) -> bool {
        match (self, value) {
            (Any, _) | (_, Probe::Null) => true,
            (Null, _) => false,
            (Off, Probe::Flag(flag)) => !flag,
            (Off, Probe::Number(number)) => *number == 0.0,
            (Off, value) => !value.is_filled(),
            (True, value) => *value == Probe::Flag(true),
            (Number(neutral), Probe::Number(number)) => *number == neutral || *number == 0.0,
            (Number(_), value) => *value == Probe::Flag(false),
            (Words(words), Probe::Text(text)) => words.contains(&text.as_str()),
            // Chats ask for log probabilities with a boolean, completions with a number, of which 0 asks too.
            (Words([]), Probe::Flag(flag)) => !flag,
            (Only(word), Probe::List { len: 1, first }) => first.as_deref() == Some(word),
            (Words(_) | Only(_), _) => false,
        }
    }
}
