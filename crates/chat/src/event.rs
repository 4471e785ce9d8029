//! What parsers find.

/// A part of a model's output. Deltas of one kind that follow each other belong together; none is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParserEvent {
    /// More of the answer.
    Text(String),
    /// More of the reasoning before the answer.
    Reasoning(String),
    /// The model calls a tool. Calls don't overlap: this one's [`ToolCallEnd`](Self::ToolCallEnd) comes before the next
    /// start, and only its arguments come between.
    ToolCallStart {
        /// Number of the call in this output, from 0.
        index: u32,
        /// The tool's name, complete.
        name: String,
    },
    /// More of the arguments of the call that has started.
    ToolCallArguments {
        /// Number of the call.
        index: u32,
        /// A fragment of JSON. All fragments together are an object, if the model wrote a valid one.
        json: String,
    },
    /// The call is complete.
    ToolCallEnd {
        /// Number of the call.
        index: u32,
    },
}
