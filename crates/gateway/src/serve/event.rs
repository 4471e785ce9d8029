//! What a generation brings, whichever dialect tells the client.

pub use protocol::message::{DeltaText, FinishReason, Usage};

/// One thing that happened to a generation. Any number of deltas come first, then one [`OutputEvent::Finish`], unless
/// an error ends the generation.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputEvent {
    /// Text that follows what came before: whole characters, at least one.
    TextDelta(DeltaText),
    /// The generation ended by itself. Nothing follows.
    Finish {
        /// Why it ended.
        reason: FinishReason,
        /// Tokens that it used.
        usage: Usage,
    },
}

/// All that a generation brought, for an answer that is not streamed.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens that it used.
    pub usage: Usage,
}
