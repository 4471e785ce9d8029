//! Parts of an output that are not simply its text.

use serde::{Deserialize, Serialize};

/// A part of an output that its model has marked. Parts of one kind that follow each other belong together; none is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputPart {
    /// More of the answer.
    Text(String),
    /// More of the reasoning before it.
    Reasoning(String),
    /// The model calls a tool. The calls of an output are numbered from 0 and do not overlap.
    CallStart {
        /// Number of the call.
        index: u32,
        /// The tool's name.
        name: String,
    },
    /// More of a call's arguments.
    CallArguments {
        /// Number of the call, which has started.
        index: u32,
        /// A fragment of JSON. All fragments of a call are an object, if the model wrote a valid one.
        json: String,
    },
}

impl OutputPart {
    /// Bytes of its text.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text)
            | Self::Reasoning(text)
            | Self::CallStart { name: text, .. }
            | Self::CallArguments { json: text, .. } => text.len(),
        }
    }
}
