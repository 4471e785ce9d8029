//! The formats in which models write, and how to tell which one a model uses.

use std::fmt;

use crate::{OutputParser, harmony, plain::Plain};

/// One format of output. There is one value of each, in [`FORMATS`].
pub struct Format {
    /// Its name, for logs.
    pub name: &'static str,
    /// Special tokens that end a turn, whatever else a model's files name.
    pub ends: &'static [&'static str],
    /// Whether calls of tools can be found in it.
    pub has_calls: bool,
    /// Whether its templates take a text or reasoning of a message that calls a tool, and fail on both.
    pub one_text_beside_calls: bool,
    /// A grammar in Lark's notation, of outputs in which an answer stands that another grammar, `@answer`, describes. `None`
    /// where the answer is all of the output.
    pub around_answer: Option<&'static str>,
    /// A parser at the beginning of an output.
    pub(crate) new: fn() -> Box<dyn OutputParser>,
    /// Whether a model with a chat template of this source writes in it.
    pub(crate) is_of: fn(&str) -> bool,
    /// Outputs and special tokens of the format, for the tests of every parser: what one format marks is text in another.
    #[cfg(test)]
    pub(crate) samples: &'static [&'static str],
}

/// The format of models that mark nothing.
pub static PLAIN: Format = Format {
    name: "plain",
    ends: &[],
    has_calls: false,
    one_text_beside_calls: false,
    around_answer: None,
    new: || Box::new(Plain),
    is_of: |_| true,
    #[cfg(test)]
    samples: &["Hello, world.\n", "{\"a\": [1, 2]}", "naïve 🦀 e\u{301}", "<", "\u{0}"],
};

/// The format of gpt-oss.
pub static HARMONY: Format = Format {
    name: "harmony",
    ends: &harmony::TURN_ENDS,
    has_calls: true,
    one_text_beside_calls: true,
    around_answer: Some(harmony::AROUND_ANSWER),
    new: || Box::new(harmony::Harmony::default()),
    is_of: |template| harmony::WRITTEN.iter().all(|marker| template.contains(marker)),
    #[cfg(test)]
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
};

/// All formats. The first one that a template is of is the model's, so the one that all are of is the last.
pub static FORMATS: [&Format; 2] = [&HARMONY, &PLAIN];

impl Format {
    /// The format of a model whose chat template this is the source of.
    pub fn of_template(source: &str) -> &'static Self {
        FORMATS.into_iter().find(|format| (format.is_of)(source)).unwrap_or(&PLAIN)
    }

    /// A parser for one output.
    pub fn parser(&self) -> Box<dyn OutputParser> {
        (self.new)()
    }

    /// Whether all of an output is its answer.
    pub fn is_plain(&self) -> bool {
        std::ptr::eq(self, &raw const PLAIN)
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Format").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests;
