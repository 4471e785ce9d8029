//! How many choices an answer has.

use super::{Kind, fields::Fields};
use crate::http::{
    error::ApiError,
    json::{Flag, Whole, field, one_of},
};

/// Most choices of one request: each takes a place.
const MAX_CHOICES: usize = 8;

/// How many choices are generated, and how many of them are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AskedChoices {
    pub(super) generated: usize,
    pub(super) shown: usize,
}

impl Fields {
    pub(super) fn choices(&self, kind: Kind) -> Result<AskedChoices, ApiError> {
        // As OpenAI names it, or as llama.cpp does.
        let names = [("n", self.n), ("n_cmpl", self.n_cmpl)];
        let shown = match one_of(&names, |Whole(n)| n.to_string())? {
            Some((name, n)) => count(name, n)?,
            None => 1,
        };
        let generated = match self.best_of {
            Some(best_of) => count("best_of", best_of)?,
            None => shown,
        };
        if generated < shown {
            return Err(field(
                "best_of",
                format!("is {generated}, but must be at least `n`, which is {shown}"),
            ));
        }
        if generated > shown && kind == Kind::Chat {
            return Err(field("best_of", "is a field of /v1/completions; a chat has `n`"));
        }
        if generated > shown && self.stream == Some(Flag(true)) {
            return Err(field(
                "best_of",
                "must not be more than `n` with `stream`: the best are known at the end",
            ));
        }
        Ok(AskedChoices { generated, shown })
    }
}

fn count(name: &str, Whole(count): Whole) -> Result<usize, ApiError> {
    let problem = || field(name, format!("is {count}, but must be from 1 to {MAX_CHOICES}"));
    usize::try_from(count).ok().filter(|count| (1..=MAX_CHOICES).contains(count)).ok_or_else(problem)
}
