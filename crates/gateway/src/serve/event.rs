//! What a generation brings, whichever dialect tells the client.

pub use protocol::message::{DeltaText, FinishReason, MAX_TOP_LOGPROBS, TokenLogprob, TokenLogprobs, Usage};

/// One thing that happened to a generation. Any number of deltas come first, then one [`OutputEvent::Finish`], unless
/// an error ends the generation.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputEvent {
    /// What follows what came before.
    Delta {
        /// Whole characters. Empty only if there are log probabilities, of tokens whose text is not certain yet.
        text: DeltaText,
        /// How likely tokens were, if the request asks for it.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The generation ended by itself. Nothing follows.
    Finish {
        /// Why it ended.
        reason: FinishReason,
        /// Tokens that it used.
        usage: Usage,
    },
}

/// All that a generation brought, for an answer that is not streamed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Its text.
    pub text: String,
    /// How likely its tokens were, if the request asks for it.
    pub logprobs: Vec<TokenLogprobs>,
    /// Why it ended; `None` before that.
    pub reason: Option<FinishReason>,
    /// Tokens that it used.
    pub usage: Usage,
}

impl Output {
    /// Takes what comes next.
    pub(super) fn add(&mut self, event: OutputEvent) {
        match event {
            OutputEvent::Delta { text, logprobs } => {
                self.text.push_str(&text);
                self.logprobs.extend(logprobs);
            }
            OutputEvent::Finish { reason, usage } => {
                self.reason = Some(reason);
                self.usage = usage;
            }
        }
    }
}
