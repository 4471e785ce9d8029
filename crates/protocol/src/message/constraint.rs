//! What a client demands of an output.

use serde::{Deserialize, Serialize};

/// What the whole output of a generation has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// What it has to be.
    pub kind: ConstraintKind,
    /// The field that asks for it, in the client's terms: errors name it.
    pub param: String,
}

/// Kinds of [`Constraint`]. Texts are as the client wrote them: the worker finds out whether they can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConstraintKind {
    /// Any JSON object.
    JsonObject,
    /// JSON that this JSON Schema accepts.
    JsonSchema(String),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of this grammar, in Lark's notation.
    Grammar(String),
}

impl Constraint {
    /// Most bytes of all its texts: what compiling takes can grow with their square. Schemas of large APIs have some tens
    /// of KiB.
    pub const MAX_BYTES: usize = 64 << 10;

    /// Most texts of a [`ConstraintKind::Choice`].
    pub const MAX_CHOICES: usize = 4096;

    /// Bytes of its texts.
    pub fn bytes(&self) -> usize {
        match &self.kind {
            ConstraintKind::JsonObject => 0,
            ConstraintKind::JsonSchema(text)
            | ConstraintKind::Regex(text)
            | ConstraintKind::Grammar(text) => text.len(),
            ConstraintKind::Choice(choices) => choices.iter().map(String::len).sum(),
        }
    }
}
