//! The formats by name.

use crate::{
    OutputParser,
    harmony::{HARMONY, Harmony},
    plain::{PLAIN, Plain},
};

/// One format of output.
struct Format {
    name: &'static str,
    /// A parser at the beginning of an output.
    new: fn() -> Box<dyn OutputParser>,
    /// Outputs and markers of the format, for the tests of every parser: what one format marks is text in another.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by tests"))]
    samples: &'static [&'static str],
}

const FORMATS: &[Format] = &[
    Format {
        name: PLAIN,
        new: || Box::new(Plain),
        samples: &["Hello, world.\n", "{\"a\": [1, 2]}", "naïve 🦀 e\u{301}", "<", "\u{0}"],
    },
    Format {
        name: HARMONY,
        new: || Box::new(Harmony::default()),
        samples: &[
            "<|start|>",
            "<|channel|>",
            "<|message|>",
            "<|end|>",
            " to=functions.f",
            "<|channel|>analysis<|message|>Why?<|end|><|start|>assistant<|channel|>final<|message|>So.<|return|>",
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
            "<|start|>assistant to=functions.g<|channel|>commentary json<|message|>{}<|call|>",
        ],
    },
];

/// A parser for one output in the format of this name; `None` if there is no such format, see [`names`].
pub fn parser(name: &str) -> Option<Box<dyn OutputParser>> {
    FORMATS.iter().find(|format| format.name == name).map(|format| (format.new)())
}

/// The names of all formats.
pub fn names() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|format| format.name)
}

#[cfg(test)]
mod tests;
