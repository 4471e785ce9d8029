//! What can be wrong with a chat template, or between it and a conversation.

use std::{error::Error as _, fmt};

use protocol::message::{Failure, FailureKind};

/// Most bytes of a template's source. Published ones have up to some ten thousand.
pub(super) const MAX_SOURCE: usize = 1 << 20;

/// Most bytes of a rendered prompt: several times what a request can hold.
pub(super) const MAX_OUTPUT: usize = 64 << 20;

/// Most bytes of a template's own words in an error.
const MAX_WORDS: usize = 1000;

/// Why a template can't be used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is not Jinja.
    #[error("its syntax is wrong: {0}")]
    Syntax(String),
    /// It is longer than any real one.
    #[error("it has {0} bytes, of at most {MAX_SOURCE}")]
    TooLong(usize),
}

/// Why a conversation could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template can't be used at all.
    #[error("this model's chat template can't be used; use /v1/completions with a prompt")]
    Unusable(#[source] Unusable),
    /// The model has templates, and none that is for all conversations.
    #[error("this model has no default chat template, only {0}; use /v1/completions with a prompt")]
    NoDefault(String),
    /// The template refuses the conversation in its own words.
    #[error("the model's chat template refuses the messages")]
    Refused(#[source] Raised),
    /// The template fails on this conversation.
    #[error("the model's chat template fails on these messages")]
    Failed(#[source] Words),
    /// It does more work, or writes more text, than a prompt can need.
    #[error("the model's chat template does too much work on these messages")]
    TooMuch(#[source] Words),
}

/// What a template said with `raise_exception`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Raised(pub(super) String);

/// What the template engine said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(String);

impl Raised {
    pub(super) fn new(words: &str) -> Self {
        Self(shortened(words))
    }
}

impl std::error::Error for Words {}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TemplateError {
    /// Classifies the engine's error.
    pub(super) fn of(error: &minijinja::Error) -> Self {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut exhausted = false;
        while let Some(one) = source {
            if let Some(raised) = one.downcast_ref::<Raised>() {
                return Self::Refused(raised.clone());
            }
            let engines = one.downcast_ref::<minijinja::Error>();
            exhausted |= engines.is_some_and(|one| one.kind() == minijinja::ErrorKind::OutOfFuel);
            source = one.source();
        }
        let words = Words(shortened(&error.to_string()));
        if exhausted { Self::TooMuch(words) } else { Self::Failed(words) }
    }

    /// For the error of a sink that is full.
    pub(super) fn too_long() -> Self {
        Self::TooMuch(Words(format!("the prompt would have more than {MAX_OUTPUT} bytes")))
    }

    /// For a system without threads left.
    pub(super) fn no_thread(error: &std::io::Error) -> Self {
        Self::Failed(Words(format!("there is no thread to run it: {error}")))
    }

    /// As the client sees it.
    pub fn failure(&self) -> Failure {
        let why = self.source().map(|source| format!(": {source}")).unwrap_or_default();
        Failure {
            kind: FailureKind::InvalidRequest,
            param: Some("messages".into()),
            message: format!("{self}{why}"),
        }
    }
}

/// The first `MAX_WORDS` bytes of it, or all.
fn shortened(words: &str) -> String {
    match words.char_indices().map(|(at, _)| at).take_while(|&at| at <= MAX_WORDS).last() {
        Some(end) if words.len() > MAX_WORDS => format!("{}…", words.get(..end).unwrap_or_default()),
        _ => words.to_owned(),
    }
}
