//! What is measured of an engine.

use std::fmt;

/// What is measured, the same for every engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// A prompt of this many tokens, in one pass.
    Prefill { tokens: usize },
    /// `batch` sequences, each with `context` tokens before the first of `steps` steps.
    Decode { batch: usize, context: usize, steps: usize },
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefill { tokens } => write!(f, "prefill {tokens}"),
            Self::Decode { batch, context, steps } => write!(f, "decode {batch} {context} {steps}"),
        }
    }
}

impl Case {
    /// For people.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Prefill { tokens } => format!("prefill of {tokens}"),
            Self::Decode { batch, .. } => format!("decode, batch {batch}"),
        }
    }
}
